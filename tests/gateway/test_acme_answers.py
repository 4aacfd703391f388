"""A directory that answers without an end is read up to a limit, not for as long as it sends."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from upstream import OK, Asked, serving

from counterfoil.certificates import certify
from counterfoil.gateway.acme import Acme
from counterfoil.gateway.acme.authority import Authority
from counterfoil.gateway.acme.errors import DirectoryUnavailable

SENT_LIMIT = 64 * 1_048_576


def test_an_answer_is_read_up_to_a_limit(tmp_path: Path) -> None:
    ca = certify(tmp_path, ["server"], datetime.now(UTC), authority="Directory's own CA")
    sent = 0

    def flood(_asked: Asked, connection: object) -> bool:
        nonlocal sent
        assert isinstance(connection, ssl.SSLSocket)
        connection.sendall(OK + b"content-type: application/json\r\n\r\n")
        while sent < SENT_LIMIT:
            connection.sendall(b" " * 65_536)
            sent += 65_536
        return False

    with serving(flood) as server:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        settings = Acme(
            hosts=("shop.example",),
            terms_agreed=True,
            directory=f"https://{server.address}/dir",
            ca_file=str(ca),
        )
        with pytest.raises(DirectoryUnavailable, match="length limit"):
            Authority.register(settings)
    assert sent < SENT_LIMIT
