"""Certificates from a real ACME directory: Pebble, which looks for each name at the gateway."""

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from directory import REFUSED, Directory, directory
from keeping import SOON, Kept, asked, kept, trusting, until

from counterfoil.gateway.acme import Acme

NAME = "shop.example"
HOURS = 3600.0


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "pebble") as found:
        yield found


def orders(pebble: Directory) -> int:
    return pebble.log().count('Added order "')


def test_a_certificate_is_ordered_while_others_are_served(
    pebble: Directory, tmp_path: Path
) -> None:
    with kept(tmp_path, pebble.port, pebble.settings(NAME, "www.shop.example")) as gateway:
        assert gateway.names("localhost") == ["localhost"]
        for name in (NAME, "www.shop.example"):
            made = gateway.await_issued(name)
            assert asked(pebble.port, name, trusting(pebble)) == 200
        standing = gateway.standing("www.shop.example")
        assert (standing["failures"], standing["trouble"], standing["ordering"]) == (0, None, False)
        ends = made.not_valid_after_utc.timestamp()
        assert standing["renew_at"] < ends - 20 * 24 * HOURS
        plane = gateway.gateway.plane
        shown = [each for each in plane.state()["certificates"] if each["source"] == "acme"]
        assert {"names": ["www.shop.example"], "not_after": ends, "source": "acme"} in shown
        metrics = urllib.request.Request(
            f"http://{plane.admin}/metrics", headers={"authorization": "Bearer c"}
        )
        text = urllib.request.urlopen(metrics, timeout=20).read().decode()
        labels = 'certificate="www.shop.example",source="acme"'
        line = f"counterfoil_gateway_certificate_not_after_seconds{{{labels}}} {ends:.0f}"
        assert line in text.splitlines()
        assert f'counterfoil_gateway_acme_failures{{host="{NAME}"}} 0' in text.splitlines()
    # A file that another is about to take the place of may be there for a moment.
    files = [file for file in (tmp_path / "acme").rglob("*") if file.suffix == ".json"]
    assert {file.name for file in files} == {
        "account.json",
        f"{NAME}.json",
        "www.shop.example.json",
    }
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_what_was_issued_serves_after_a_restart_without_its_directory(
    pebble: Directory, tmp_path: Path
) -> None:
    settings = pebble.settings(NAME)
    with kept(tmp_path, pebble.port, settings) as before:
        first = before.await_issued(NAME)
    pebble.kill()
    with kept(tmp_path, pebble.port, settings) as after:
        assert after.certificate(NAME) == first


def test_certificates_are_renewed_without_losing_a_request(
    pebble: Directory, tmp_path: Path
) -> None:
    """They live for twelve seconds, so another one comes after four."""
    with kept(tmp_path, pebble.port, pebble.settings(NAME, profile="short")) as gateway:
        first = gateway.await_issued(NAME)
        ended, failed, answered = threading.Event(), list[object](), list[int]()
        context = trusting(pebble)

        def ask() -> None:
            while not ended.is_set():
                try:
                    answered.append(asked(pebble.port, NAME, context))
                except Exception as error:
                    failed.append(error)

        clients = [threading.Thread(target=ask) for _ in range(2)]
        for client in clients:
            client.start()

        until(lambda: gateway.certificate(NAME) != first)
        until(lambda: len(answered) > 20)
        ended.set()
        for client in clients:
            client.join()
        assert (failed, set(answered)) == ([], {200})


def test_a_certificate_is_renewed_when_its_directory_says_so(
    pebble: Directory, tmp_path: Path
) -> None:
    settings = pebble.settings(NAME)
    with kept(tmp_path, pebble.port, settings) as gateway:
        first = gateway.await_issued(NAME)
        until(lambda: "renewalInfo" in pebble.log())
        file = tmp_path / "acme" / "hosts" / f"{NAME}.json"
        until(lambda: "window" in file.read_text())
    now = datetime.now(UTC)
    pem = first.public_bytes(Encoding.PEM).decode()
    pebble.suggest(pem, now - timedelta(days=2), now - timedelta(days=1))

    def tomorrow() -> float:
        return time.time() + 24 * HOURS

    with kept(tmp_path, pebble.port, settings, clock=tomorrow) as gateway:
        until(lambda: gateway.certificate(NAME) != first)
    assert orders(pebble) == 2


def test_a_directory_that_is_away_at_the_start_is_asked_again(tmp_path: Path) -> None:
    with directory(tmp_path / "pebble") as pebble:
        pebble.kill()
        with kept(tmp_path, pebble.port, pebble.settings(NAME), pace=SOON) as gateway:
            standing = gateway.await_trouble(NAME, 2)
            assert "Connection refused" in standing["trouble"]
            assert "it is asked again" in standing["trouble"]
            assert gateway.names(NAME) == ["localhost"]
            pebble.start()
            gateway.await_issued(NAME)
            assert gateway.standing(NAME)["failures"] == 0


def test_a_certificate_serves_while_it_cant_be_renewed(pebble: Directory, tmp_path: Path) -> None:
    """The directory comes back without its memory, so another account is made, too."""
    settings = pebble.settings(NAME, profile="short")
    with kept(tmp_path, pebble.port, settings, pace=SOON) as gateway:
        first = gateway.await_issued(NAME)
        context = trusting(pebble)
        pebble.kill()
        gateway.await_trouble(NAME, 3)
        assert gateway.certificate(NAME).issuer == first.issuer
        assert asked(pebble.port, NAME, context) == 200
        pebble.start()
        until(lambda: gateway.certificate(NAME).issuer != first.issuer)
        assert asked(pebble.port, NAME, trusting(pebble)) == 200


def test_what_a_directory_refuses_is_told_in_its_words_and_not_tried_again_at_once(
    pebble: Directory, tmp_path: Path
) -> None:
    with kept(tmp_path, pebble.port, pebble.settings(REFUSED, NAME)) as gateway:
        standing = gateway.await_trouble(REFUSED)
        assert "rejectedIdentifier" in standing["trouble"]
        assert "take it out of hosts" in standing["trouble"]
        assert standing["try_at"] > time.time() + 200
        gateway.await_issued(NAME)
    with kept(tmp_path, pebble.port, pebble.settings(REFUSED, NAME)) as gateway:
        gateway.await_issued(NAME)
        assert gateway.standing(REFUSED) == standing, "a restart is no reason to try again"
    assert orders(pebble) == 1


def test_a_name_that_does_not_lead_here_is_told_with_what_to_look_at(
    pebble: Directory, tmp_path: Path
) -> None:
    with kept(tmp_path, 0, pebble.settings(NAME)) as gateway:
        standing = gateway.await_trouble(NAME)
        assert "see that DNS leads here" in standing["trouble"]
        assert not standing["ordering"], "an order that has failed is given up"
        assert gateway.names(NAME) == ["localhost"]


@pytest.mark.parametrize("moment", ["acme.before-proof", "acme.before-certificate"])
def test_who_is_killed_in_the_middle_of_an_order_goes_on_with_it(
    pebble: Directory, tmp_path: Path, moment: str
) -> None:
    settings = pebble.settings(NAME)
    killed(tmp_path, pebble, settings, moment)
    with kept(tmp_path, pebble.port, settings) as gateway:
        gateway.await_issued(NAME)
    assert orders(pebble) == 1


def test_who_is_killed_before_its_order_is_known_waits_as_if_it_had_failed(
    pebble: Directory, tmp_path: Path
) -> None:
    """Who is killed again and again must not order again and again."""
    settings = pebble.settings(NAME)
    killed(tmp_path, pebble, settings, "acme.before-order")
    with kept(tmp_path, pebble.port, settings) as gateway:
        until(lambda: gateway.standing(NAME).get("try_at") is not None)
        assert gateway.standing(NAME)["try_at"] > time.time() + 200

    def later() -> float:
        return time.time() + HOURS

    assert orders(pebble) == 0
    with kept(tmp_path, pebble.port, settings, clock=later) as gateway:
        gateway.await_issued(NAME)


def killed(folder: Path, pebble: Directory, settings: Acme, moment: str) -> None:
    """A gateway on the same state that kills itself (SIGKILL) at `moment`."""
    faults = folder / "faults"
    faults.mkdir()
    (faults / moment).write_text("kill")
    script = Path(__file__).with_name("keep_until_killed.py")
    arguments = [str(folder), str(pebble.port), msgspec.json.encode(settings).decode()]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(faults)}
    done = subprocess.run([sys.executable, script, *arguments], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_an_account_is_bound_to_one_that_the_directory_knows(tmp_path: Path) -> None:
    with directory(tmp_path / "pebble", external=True) as pebble:
        settings = pebble.settings(NAME, "pay.example")
        with kept(tmp_path / "stranger", pebble.port, settings) as gateway:
            for name in settings.hosts:
                assert "set external_account" in gateway.await_trouble(name)["trouble"]
            assert pebble.log().count("POST /sign-me-up") == 1, "it is asked once for all names"
        with kept(tmp_path / "known", pebble.port, pebble.settings(NAME, bound=True)) as gateway:
            gateway.await_issued(NAME)


def test_hosts_come_and_go_with_the_configuration(pebble: Directory, tmp_path: Path) -> None:
    with kept(tmp_path, pebble.port, pebble.settings(NAME)) as gateway:
        first = gateway.await_issued(NAME)
        gateway.keeper.use(pebble.settings("pay.example"))
        assert gateway.names(NAME) == ["localhost"]
        gateway.await_issued("pay.example")
        gateway.keeper.use(None)
        assert gateway.names("pay.example") == ["localhost"]
        gateway.keeper.use(pebble.settings(NAME, "pay.example"))
        assert gateway.certificate(NAME) == first
    assert orders(pebble) == 2


def test_another_directory_issues_anew_while_the_certificate_before_serves(
    pebble: Directory, tmp_path: Path
) -> None:
    with directory(tmp_path / "other") as other:
        with kept(tmp_path, pebble.port, pebble.settings(NAME)) as gateway:
            first = gateway.await_issued(NAME)
        with kept(tmp_path, other.port, other.settings(NAME)) as gateway:
            assert gateway.names(NAME) == [NAME]
            until(lambda: gateway.certificate(NAME) != first)
            assert asked(other.port, NAME, trusting(other)) == 200


def handshake(gateway: Kept, *protocols: str) -> str | None:
    """What is agreed on with a client that speaks these."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", gateway.gateway.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as secured,
    ):
        return secured.selected_alpn_protocol()


def test_nothing_is_proved_to_who_asks_for_a_proof_out_of_turn(tmp_path: Path) -> None:
    with directory(tmp_path / "pebble") as pebble:
        pebble.kill()
        with kept(tmp_path, 0, pebble.settings(NAME)) as gateway:
            with pytest.raises(ssl.SSLError):
                handshake(gateway, "acme-tls/1")
            assert handshake(gateway, "acme-tls/1", "h2") == "h2"
