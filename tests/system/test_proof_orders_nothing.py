"""A proof of an application with `[gateway.acme]` asks nothing of the directory."""

import socket
from pathlib import Path

import pytest

from counterfoil.cli.scaffold import write_application
from counterfoil.testing import prove


def test_a_proof_orders_no_certificates(tmp_path: Path) -> None:
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
        with (folder / "counterfoil.toml").open("a") as file:
            file.write(acme)
        verdict = prove(folder, tmp_path / "state", requests=20, faults=())
        with pytest.raises(BlockingIOError):
            directory.accept()
    assert verdict.verdict == "holds"
    log = (tmp_path / "state" / "logs" / "gateway.log").read_text()
    assert '"event": "acme_left_out"' in log
