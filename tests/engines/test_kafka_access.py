"""A broker that asks who is there: who is let in, and what everybody else is told, at once."""

import datetime
import logging
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from counterfoil.certificates import certify
from counterfoil.engines import RunningEngine
from counterfoil.engines.checks import Finding, Level, check_kafka
from counterfoil.engines.secured_kafka import GUEST, access
from counterfoil.events import EventsError, KafkaEvents, LogUnavailable, Topic, kafka_transactions
from counterfoil.events.kafka_rights import Right, needed
from counterfoil.kafka_access import KafkaAccess, Mechanism, Protocol
from counterfoil.proof.anomalies import check
from counterfoil.proof.anomalies.kafka import run

Engine = Callable[[str], RunningEngine]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of an authority that the broker has never heard of."""
    now = datetime.datetime.now(datetime.UTC)
    return certify(
        tmp_path_factory.mktemp("strangers"), ["counterfoil"], now, authority="strangers"
    ).parent


def refused(access: KafkaAccess) -> Finding:
    """The one thing that is wrong."""
    (finding,) = [each for each in check_kafka(access) if each.level is Level.BREAKS]
    assert not access.password or access.password not in str(finding)
    return finding


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SASL_SSL", "PLAIN"),
        ("SASL_SSL", "SCRAM-SHA-256"),
        ("SASL_SSL", "SCRAM-SHA-512"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SSL", "PLAIN"),
    ],
)
def test_both_clients_are_let_in(engine: Engine, protocol: Protocol, mechanism: Mechanism) -> None:
    found = access(engine("secured-kafka"), protocol, mechanism)
    events = KafkaEvents(found, "", None, "both-clients")
    assert events.log().ends("nothing") == {}
    assert events.transactions().newest(0) == []
    warned = {each.setting for each in check_kafka(found)}
    assert ("protocol" in warned) == (protocol == "SASL_PLAINTEXT"), "others can read what is said"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_refused_by_both_clients(
    engine: Engine,
    mechanism: Mechanism,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(kafka_transactions, "CALL_MS", 2_000)  # it is tried that long
    wrong = replace(
        access(engine("secured-kafka"), mechanism=mechanism), password="guess-of-somebody"
    )
    finding = refused(wrong)
    assert "counterfoil, whom 127.0.0.1" in finding.found
    assert "KAFKA_PASSWORD" in finding.remedy
    with pytest.raises(LogUnavailable, match="counterfoil engines check") as error:
        KafkaEvents(wrong, "", None, "guessing").transactions().newest(0)
    assert "guess-of-somebody" not in f"{error.value!r} {wrong!r} {caplog.text}"


def test_a_listener_that_speaks_something_else_is_named(engine: Engine) -> None:
    secured, plain = engine("secured-kafka"), engine("kafka").address
    tls, sasl, both = (access(secured, each) for each in ("SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    for tried, says, fitting in (
        (replace(tls, servers=plain), "speaks no TLS", "PLAINTEXT"),
        (replace(sasl, servers=plain), "speaks no SASL", "PLAINTEXT"),
        (KafkaAccess(tls.servers), "speaks TLS", "SSL"),
        (replace(sasl, servers=both.servers), "speaks TLS", "SASL_SSL"),
        (replace(both, servers=sasl.servers), "speaks no TLS", "SASL_PLAINTEXT"),
        (replace(both, protocol="SSL"), "speaks SASL (", "SASL_SSL"),
        (KafkaAccess(sasl.servers), "speaks SASL (SCRAM-SHA-512)", "SASL_PLAINTEXT"),
    ):
        finding = refused(tried)
        assert (finding.setting, says in finding.found) == ("protocol", True), finding
        assert f'or set protocol = "{fitting}"' in finding.remedy
        assert f"a listener that speaks {tried.protocol}" in finding.remedy


def test_a_mechanism_that_a_listener_does_not_have_is_named(engine: Engine) -> None:
    finding = refused(access(engine("secured-kafka"), "SASL_PLAINTEXT", "PLAIN"))
    assert finding.found.startswith("PLAIN, which")
    assert finding.needed == "one of SCRAM-SHA-512"


def test_a_broker_that_nobody_known_vouches_for_is_not_told_a_password(
    engine: Engine, strangers: Path
) -> None:
    found = access(engine("secured-kafka"))
    for ca in (strangers / "ca.pem", None):
        finding = refused(replace(found, ca=ca))
        assert finding.setting == "certificate"
        assert "issuer" in finding.found
        assert "set ca of [kafka]" in finding.remedy


def test_a_broker_with_another_name_is_not_told_a_password(engine: Engine) -> None:
    found = access(engine("secured-kafka"))
    finding = refused(replace(found, servers=found.servers.replace("127.0.0.1", "127.1")))
    assert finding.needed == "a certificate with the name 127.1"


def test_a_client_without_a_certificate_that_is_trusted_is_told_so(
    engine: Engine, strangers: Path
) -> None:
    found = access(engine("secured-kafka"), "SSL")
    bare = refused(replace(found, certificate=None, key=None))
    assert bare.found.startswith("without a certificate")
    own, key = strangers / "counterfoil.pem", strangers / "counterfoil.key"
    strange = refused(replace(found, certificate=own, key=key))
    assert strange.found.startswith(str(own))
    assert "set certificate and key" in strange.remedy


def test_files_that_are_not_what_they_should_be_are_named(engine: Engine, strangers: Path) -> None:
    found = access(engine("secured-kafka"), "SSL")
    for broken in (
        replace(found, ca=strangers / "nowhere.pem"),
        replace(found, ca=strangers / "counterfoil.key"),
        replace(found, key=strangers / "counterfoil.key"),
    ):
        finding = refused(broken)
        assert finding.setting == "certificates"
        assert str(broken.ca) in finding.found
        assert str(broken.key) in finding.found


def test_a_key_may_have_a_password_of_its_own(engine: Engine, tmp_path: Path) -> None:
    found = access(engine("secured-kafka"), "SSL")
    assert found.key is not None
    key = serialization.load_pem_private_key(found.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"of-the-key"),
        )
    )
    opened = replace(found, key=locked, key_password="of-the-key")
    events = KafkaEvents(opened, "", None, "locked-key")
    assert events.log().ends("nothing") == {}
    assert events.transactions().newest(0) == []
    assert "of-the-key" not in repr(opened)
    for password in ("guess", ""):
        finding = refused(replace(opened, key_password=password))
        assert finding.setting == "certificates"
        assert "KAFKA_KEY_PASSWORD" in finding.remedy


def test_random_transactions_run_with_the_rights_that_they_need(
    user_of_kafka: Callable[[str, Iterable[Right]], KafkaAccess],
) -> None:
    verifier = user_of_kafka("verifier", needed("counterfoil.verify"))
    assert check(run(verifier, clients=2, transactions=10, seed=3)).holds


def test_one_broker_that_answers_is_enough(engine: Engine) -> None:
    found = access(engine("secured-kafka"))
    more = replace(found, servers=f"127.0.0.1:1,{found.servers}")
    assert [each for each in check_kafka(more) if each.level is Level.BREAKS] == []


class _Closes(socketserver.BaseRequestHandler):
    """Reads what is said first, and closes without an answer."""

    def handle(self) -> None:
        self.request.recv(1 << 16)


@pytest.fixture
def closing_listener() -> Iterator[str]:
    """The address of a listener that lets everybody in and answers nobody."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Closes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
def test_a_broker_that_closes_does_not_speak_for_the_others(
    engine: Engine, closing_listener: str, protocol: Protocol
) -> None:
    found = access(engine("secured-kafka"), protocol)
    more = replace(found, servers=f"{closing_listener},{found.servers}")
    assert [each for each in check_kafka(more) if each.level is Level.BREAKS] == []
    alone = refused(replace(found, servers=closing_listener))
    assert alone.setting == "address"
    assert alone.found == f"{closing_listener}: it closed the connection"


NOTHING = Topic("nothing", dict, partitions=1)


@pytest.mark.parametrize("missing", range(5))
def test_a_right_that_is_missing_is_named_with_the_command_that_gives_it(
    user_of_kafka: Callable[[str, Iterable[Right]], KafkaAccess], missing: int
) -> None:
    application = f"lacking-{missing}"
    rights = needed(application)
    lacking = rights.pop(missing)
    log = KafkaEvents(user_of_kafka(application, rights), "", None, application).log()
    with pytest.raises(EventsError) as error:
        log.declare([NOTHING])
        log.check_rights([NOTHING], ["bank"])
    if lacking.operation == "Create":
        assert "docs/events.md has the ACLs" in str(error.value)
        return
    assert f"{lacking.operation} on {lacking.resource}" in str(error.value)
    assert lacking.command(application) in str(error.value)


def test_a_certificate_is_a_user_with_rights_of_its_own(engine: Engine) -> None:
    found = access(engine("secured-kafka"), "SSL")
    assert found.certificate is not None
    folder = found.certificate.parent
    guest = replace(found, certificate=folder / f"{GUEST}.pem", key=folder / f"{GUEST}.key")
    assert [each for each in check_kafka(guest) if each.level is Level.BREAKS] == []
    with pytest.raises(EventsError, match=r"docs/events\.md has the ACLs"):
        KafkaEvents(guest, "", None, "guests").log().declare([NOTHING])
