"""What must become neither a flood of orders nor a standstill: full disks, wrong clocks."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from directory import directory
from keeping import SOON, answer, certificate, kept, until
from secure import secure
from structlog.testing import capture_logs
from test_acme import NAME, orders

from counterfoil.certificates import certify
from counterfoil.gateway.acme import pairs
from counterfoil.gateway.acme.errors import DirectoryRefused
from counterfoil.gateway.acme.folder import FolderStore
from counterfoil.gateway.acme.pairs import Pair
from counterfoil.gateway.acme.showing import Showing, Standing
from counterfoil.gateway.acme.store import Record

HOUR = 3600.0
YEAR = 365 * 24 * HOUR


def test_an_account_that_cant_be_written_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.gateway.acme.keeper.STORE_SECONDS", 0.05)
    in_the_way = tmp_path / "acme" / "account.json.tmp"
    in_the_way.mkdir(parents=True)
    with (
        directory(tmp_path / "pebble") as pebble,
        capture_logs() as logs,
        kept(tmp_path, pebble.port, pebble.settings(NAME)) as gateway,
    ):

        def said(event: str) -> int:
            return len([each for each in logs if each["event"] == event])

        until(lambda: said("acme_store_unavailable") > 3, lambda: logs)
        in_the_way.rmdir()
        gateway.await_issued(NAME)
        assert pebble.log().count("accounts in memory") == 1
        stored = json.loads((tmp_path / "acme" / "account.json").read_bytes())
        assert stored["directory"] == pebble.url


def test_a_certificate_that_has_ended_already_is_refused_and_not_ordered_at_once_again(
    tmp_path: Path,
) -> None:
    with (
        directory(tmp_path / "pebble") as pebble,
        kept(
            tmp_path,
            pebble.port,
            pebble.settings(NAME, profile="short"),
            clock=lambda: time.time() + HOUR,
        ) as gateway,
    ):
        trouble = gateway.await_trouble(NAME)
        assert "has ended already" in trouble["trouble"]
        assert trouble["try_at"] > time.time() + HOUR + 200
        assert orders(pebble) == 1


def test_a_wait_that_a_wrong_clock_wrote_down_does_not_keep_a_name_from_its_certificate(
    tmp_path: Path,
) -> None:
    failed = Record(failures=1, try_at=time.time() + YEAR, trouble="the directory did not answer")
    FolderStore(tmp_path / "acme").keep(NAME, failed, None)
    with (
        directory(tmp_path / "pebble") as pebble,
        kept(tmp_path, pebble.port, pebble.settings(NAME), pace=SOON) as gateway,
    ):
        gateway.await_issued(NAME)


def proof(host: str) -> Pair:
    return pairs.proof(host, b"x" * 32, time.time())


def test_what_stands_between_certificates_is_not_kept() -> None:
    pair, now = proof(NAME), time.time()
    broken_off = "-----BEGIN CERTIFICATE-----\nAAAA"
    assert pairs.issued(NAME, f"CN=x\n{pair.certificate}{broken_off}", pair.key, now) == pair
    no_certificate = f"{pair.certificate}{broken_off}\n-----END CERTIFICATE-----\n"
    for given in ("", "<html>", no_certificate):
        with pytest.raises(DirectoryRefused, match="is no certificate"):
            pairs.issued(NAME, given, pair.key, now)
    with pytest.raises(DirectoryRefused, match="another key"):
        pairs.issued(NAME, pair.certificate, pairs.new_key(), now)
    with pytest.raises(DirectoryRefused, match="isn't for other"):
        pairs.issued("other.example", pair.certificate, pair.key, now)
    with pytest.raises(DirectoryRefused, match="ended already"):
        pairs.issued(NAME, pair.certificate, pair.key, now + YEAR)


def test_a_name_whose_certificate_cant_be_used_is_left_out_alone(tmp_path: Path) -> None:
    certify(tmp_path / "other", [NAME], datetime.now(UTC), authority="Another CA")
    good = Pair(*((tmp_path / "other" / f"{NAME}.{kind}").read_text() for kind in ("pem", "key")))
    broken = "broken.example"
    showing = Showing(
        issued=[(broken, proof(broken)), (NAME, good)],  # a proof is no certificate
        challenges=[(broken, Pair("", ""))],
        hosts=[Standing(host=broken), Standing(host=NAME)],
    )
    with secure(tmp_path / "tls", answer, http3=False) as gateway:
        gateway.plane.certify(showing)
        shown = x509.load_pem_x509_certificate(good.certificate.encode())
        assert certificate(gateway.port, NAME) == shown
        told = {each["host"]: each["trouble"] for each in gateway.plane.state()["acme"]}
        assert told[NAME] is None
        assert broken in told[broken]
