"""`[gateway.acme]`: which names get their certificates from a directory, and from which."""

import re
from pathlib import Path
from typing import Final

import msgspec

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
HOSTS_LIMIT: Final = 100
"""Names of one gateway, each with a certificate of its own. Let's Encrypt takes 300 orders of an
account in three hours: with so many names that all fail, tries stay below that (`schedule`)."""
_LABEL: Final = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+")


class ExternalAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account that the directory's owner knows already (RFC 8555, section 7.3.4)."""

    key_id: str
    key_file: str
    """Holds the key (HMAC) as the owner gives it, in base64url."""


class Acme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Certificates for `hosts` from an ACME directory, by TLS-ALPN-01: it looks for each name on
    port 443, which has to lead to `listen`."""

    hosts: tuple[str, ...]
    """Names as clients ask for them; each gets a certificate. No wildcards, which would need
    DNS."""
    terms_agreed: bool = False
    """Whether you agree to the directory's terms of service. Nothing is asked of it without."""
    directory: str = LETS_ENCRYPT
    email: str = ""
    """Where the directory's owner may write to; not all take one."""
    ca_file: str = ""
    """The authority (PEM, the first one counts) that vouches for the directory's own certificate,
    in place of those that this machine trusts: for a directory of one's own."""
    profile: str = ""
    """Which kind of certificate, where the directory has several (`shortlived`, say)."""
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
        """The same with paths that hold wherever a process stands."""

        def place(file: str) -> str:
            return str(folder.resolve() / file) if file else ""

        external = self.external_account
        if external is not None:
            external = msgspec.structs.replace(external, key_file=place(external.key_file))
        return msgspec.structs.replace(self, ca_file=place(self.ca_file), external_account=external)
