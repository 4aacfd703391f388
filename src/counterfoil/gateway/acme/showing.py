"""The ACME state passed to the data plane (`Given` in the native core)."""

from collections.abc import Sequence

import msgspec

from counterfoil.gateway.acme.pairs import Pair
from counterfoil.gateway.acme.store import Record


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A host's status, for operators. Times are in seconds since 1970."""

    host: str
    ordering: bool = False
    failures: int = 0
    trouble: str | None = None
    try_at: float | None = None
    renew_at: float | None = None

    @classmethod
    def of(cls, host: str, record: Record | None) -> "Standing":
        """From a host's record."""
        if record is None:
            return cls(host=host)
        return cls(
            host=host,
            ordering=bool(record.order),
            failures=record.failures,
            trouble=record.trouble or None,
            try_at=record.try_at or None,
            renew_at=record.renew_at or None,
        )


class Showing(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates for clients, challenge certificates for directories, and each host's status.
    Contains private keys."""

    issued: Sequence[tuple[str, Pair]]
    challenges: Sequence[tuple[str, Pair]]
    hosts: Sequence[Standing]

    def document(self) -> str:
        """The JSON document for the native core."""

        def pairs(found: Sequence[tuple[str, Pair]]) -> list[dict[str, str]]:
            return [
                {"host": host, "certificate": pair.certificate, "key": pair.key}
                for host, pair in found
            ]

        return msgspec.json.encode(
            {
                "issued": pairs(self.issued),
                "challenges": pairs(self.challenges),
                "hosts": self.hosts,
            }
        ).decode()
