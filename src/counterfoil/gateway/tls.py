"""The development certificate of a gateway, made once and kept in the state folder."""

import datetime
from pathlib import Path

from counterfoil.certificates import certify


def development_certificate(folder: Path, now: datetime.datetime) -> tuple[Path, Path, Path]:
    """The authority's certificate, the server's certificate and its key, for localhost."""
    authority = folder / "ca.pem"
    if not authority.exists():
        certify(folder, ["server"], now, authority="Counterfoil development CA")
    return authority, folder / "server.pem", folder / "server.key"
