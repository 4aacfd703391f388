"""A gateway's development certificate, created once and kept in the state folder."""

import datetime
from pathlib import Path

from counterfoil.certificates import certify


def development_certificate(folder: Path, now: datetime.datetime) -> tuple[Path, Path, Path]:
    """The CA certificate, the server certificate for localhost, and its key."""
    authority = folder / "ca.pem"
    if not authority.exists():
        certify(folder, ["server"], now, authority="Counterfoil development CA")
    return authority, folder / "server.pem", folder / "server.key"
