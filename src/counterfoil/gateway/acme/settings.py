"""`[gateway.acme]`: the hosts whose certificates come from an ACME directory."""

import re
from pathlib import Path
from typing import Final

import msgspec

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
HOSTS_LIMIT: Final = 100
"""Per gateway, each host with its own certificate. Let's Encrypt allows 300 orders of an account in
three hours: even if all these hosts fail, attempts stay below that (`schedule`)."""
_LABEL: Final = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+")


class ExternalAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An existing account with the directory's owner (RFC 8555, section 7.3.4)."""

    key_id: str
    key_file: str
    """A file with the HMAC key in base64url, as issued by the owner."""


class Acme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificates for `hosts` from an ACME directory by TLS-ALPN-01: it connects to each host on
    port 443, which must lead to `listen`."""

    hosts: tuple[str, ...]
    """Host names; each gets its own certificate. No wildcards, which need a DNS challenge."""
    terms_agreed: bool = False
    """Whether you agree to the directory's terms of service; required."""
    directory: str = LETS_ENCRYPT
    email: str = ""
    """A contact for the directory's owner; not all directories accept one."""
    ca_file: str = ""
    """The CA (PEM, only the first is used) of the directory's own certificate, instead of the
    system's: for a private directory."""
    profile: str = ""
    """The certificate profile, if the directory has several, such as `shortlived`."""
    external_account: ExternalAccount | None = None

    def __post_init__(self) -> None:
        if not self.terms_agreed:
            raise ValueError(
                "acme: terms_agreed is false, so nothing may be ordered: read the terms of service "
                f"of {self.directory}, then set terms_agreed = true"
            )
        if not 1 <= len(self.hosts) <= HOSTS_LIMIT:
            raise ValueError(f"acme: hosts are 1 to {HOSTS_LIMIT} names")
        if len(set(self.hosts)) < len(self.hosts):
            raise ValueError("acme: hosts are different names")
        for host in self.hosts:
            if host.startswith("*."):
                raise ValueError(
                    f"acme: {host}: a wildcard takes a proof by DNS, which there is none of here: "
                    "name each host, or put a certificate for it into certificates"
                )
            if len(host) > 253 or not _HOST.fullmatch(host) or host.split(".")[-1].isdigit():
                raise ValueError(
                    f"acme: {host!r} is no name of a host such as shop.example.com, in lower case"
                )
        if not self.directory.startswith("https://") or "@" in self.directory:
            raise ValueError("acme: directory begins with https://, and holds no credentials")
        if self.email and not re.fullmatch(r"[^@\s,?]+@[^@\s,?]+", self.email):
            raise ValueError(f"acme: email {self.email!r} is no address")

    def placed(self, folder: Path) -> "Acme":
        """The same settings with absolute paths."""

        def place(file: str) -> str:
            return str(folder.resolve() / file) if file else ""

        external = self.external_account
        if external is not None:
            external = msgspec.structs.replace(external, key_file=place(external.key_file))
        return msgspec.structs.replace(self, ca_file=place(self.ca_file), external_account=external)
