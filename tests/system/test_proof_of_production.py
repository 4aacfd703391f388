"""Proofs of an application as it is in production: on all addresses, with `[gateway.acme]`."""

import re
import socket
from pathlib import Path

import pytest

from counterfoil.cli.scaffold import write_application
from counterfoil.proof.prove import ProofError
from counterfoil.testing import prove

LISTEN = 'listen = "127.0.0.1:8443"'


def test_a_proof_holds_without_tls(tmp_path: Path) -> None:
    folder = tmp_path / "wallet"
    write_application(folder)
    file = folder / "counterfoil.toml"
    file.write_text(file.read_text().replace(LISTEN, f'{LISTEN}\ntls = "off"'))
    assert prove(folder, tmp_path / "state", requests=20, faults=()).verdict == "holds"


def test_a_proof_without_the_development_issuer_says_that_it_needs_one(tmp_path: Path) -> None:
    folder = tmp_path / "wallet"
    write_application(folder)
    file = folder / "counterfoil.toml"
    text, found = re.subn(r"(?s)\[issuer\].*?\n\n", "", file.read_text())
    assert found == 1
    file.write_text(text)
    with pytest.raises(ProofError, match=r"there is no \[issuer\]"):
        prove(folder, tmp_path / "state", requests=20)


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
        assert LISTEN in text
        announced = 'proxy_protocol = true\ntrusted_proxies = ["192.0.2.0/24"]'
        file.write_text(text.replace(LISTEN, f'listen = "0.0.0.0:443"\n{announced}') + acme)
        verdict = prove(folder, tmp_path / "state", requests=20, faults=())
        with pytest.raises(BlockingIOError):
            directory.accept()
    assert verdict.verdict == "holds"
    log = (tmp_path / "state" / "logs" / "gateway.log").read_text()
    assert '"event": "acme_left_out"' in log
