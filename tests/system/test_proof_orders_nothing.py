"""A proof of an application as it is in production: on all addresses, with `[gateway.acme]`."""

import socket
from pathlib import Path

import pytest

from counterfoil.cli.scaffold import write_application
from counterfoil.testing import prove


def test_a_proof_holds_and_orders_no_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "wallet"
    write_application(folder)
    with socket.create_server(("127.0.0.1", 0)) as directory:
        directory.setblocking(False)
        acme = f"""
[gateway.acme]
hosts = ["wallet.example"]
terms_agreed = true
directory = "https://127.0.0.1:{directory.getsockname()[1]}/dir"
"""
        file = folder / "counterfoil.toml"
        text = file.read_text()
        assert '"127.0.0.1:8443"' in text
        file.write_text(text.replace('"127.0.0.1:8443"', '"0.0.0.0:443"') + acme)
        verdict = prove(folder, tmp_path / "state", requests=20, faults=())
        with pytest.raises(BlockingIOError):
            directory.accept()
    assert verdict.verdict == "holds"
    log = (tmp_path / "state" / "logs" / "gateway.log").read_text()
    assert '"event": "acme_left_out"' in log
