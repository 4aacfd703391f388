"""The files of TLS to instances: refused where they can't be used, and exchanged by a reload."""

import shutil
import socket
import ssl
from pathlib import Path

import msgspec
import pytest
from authority import Authority, Issued, serving_as
from securing import Before, Protocol, asking, before, good, server, speaking
from sharing import until
from upstream import Asked

from counterfoil.application import ConfigurationError
from counterfoil.cli.gateway import check
from counterfoil.gateway.config import GatewayConfig
from counterfoil.gateway.data_plane import GatewayError
from counterfoil.gateway.services import ServiceTls

NAME = "payments.internal"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def next_one(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "next")


def trusts(file: Path, *authorities: Authority) -> None:
    """Write a file of authorities."""
    file.write_bytes(b"".join(each.file.read_bytes() for each in authorities))


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_an_authority_is_exchanged_by_reloads_without_losing_a_request(
    ours: Authority, next_one: Authority, tmp_path: Path, protocol: Protocol
) -> None:
    bundle = tmp_path / "bundle.pem"
    trusts(bundle, ours)
    tls = ServiceTls(ca_file=str(bundle), server_name=NAME)
    with (
        speaking(protocol, serving_as(ours.issue(NAME), protocol)) as instance,
        before(instance, tls=tls, protocol=protocol) as gateway,
        asking(gateway.client) as statuses,
    ):
        until(lambda: len(statuses) > 20)
        trusts(bundle, ours, next_one)
        gateway.plane.reload(gateway.config)
        instance.tls = serving_as(next_one.issue(NAME), protocol)
        trusts(bundle, next_one)
        # Connections that rest on what is trusted no longer end after what is under way on them.
        gateway.plane.reload(gateway.config)
        reloaded = len(statuses)
        until(lambda: len(statuses) > reloaded + 20)
        assert set(statuses) == {200}
    assert gateway.endpoint()["breaker"] == "closed"


def test_what_is_trusted_no_longer_is_asked_nothing_though_there_are_connections(
    ours: Authority, next_one: Authority, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    trusts(bundle, ours)
    tls = ServiceTls(ca_file=str(bundle), server_name=NAME)
    with (
        server(serving_as(ours.issue(NAME))) as instance,
        before(instance, tls=tls, attempts=1, breaker_failures=9) as gateway,
    ):
        assert [gateway.client.get("/a").status_code for _ in range(2)] == [200, 200]
        gateway.plane.reload(gateway.config)
        assert gateway.client.get("/a").status_code == 200
        assert len(instance.connections) == 1, "the same files change nothing"
        trusts(bundle, next_one)
        gateway.plane.reload(gateway.config)
        assert gateway.client.get("/a").status_code == 502
        assert str(bundle) in (gateway.trouble() or "")
        # It is not a session of before that lets it in, either.
        assert gateway.client.get("/a").status_code == 502
        trusts(bundle, ours)
        gateway.plane.reload(gateway.config)
        assert gateway.client.get("/a").status_code == 200


def test_the_gateways_own_certificate_is_renewed_three_times_without_losing_a_request(
    ours: Authority,
) -> None:
    seen: list[object] = []

    def answer(asked: Asked, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        peer = connection.getpeercert()
        seen.append(peer and peer["serialNumber"])
        good(asked, connection)

    own = ours.issue("gateway.internal", client=True, file="own")
    tls = ServiceTls(
        ca_file=str(ours.file),
        server_name=NAME,
        certificate=str(own.certificate),
        key=str(own.key),
    )
    context = serving_as(ours.issue(NAME), clients_of=ours)
    with (
        server(context, answer) as instance,
        before(instance, tls=tls) as gateway,
        asking(gateway.client) as statuses,
    ):
        for number in range(1, 5):
            until(lambda number=number: len(set(seen)) == number)
            ours.issue("gateway.internal", client=True, file="own")
            gateway.plane.reload(gateway.config)
        until(lambda: len(set(seen)) == 5)
        assert set(statuses) == {200}


def spoiled(tmp_path: Path, ours: Authority, own: Issued, what: str) -> None:
    match what:
        case "missing":
            own.key.unlink()
        case "empty":
            own.certificate.write_text("")
        case "another key":
            shutil.copy(ours.issue("other", client=True).key, own.key)
        case "expired":
            ours.issue("gateway.internal", client=True, expired=True, file="own")
        case "a server's":
            ours.issue("gateway.internal", file="own")
        case "no authority":
            (tmp_path / "ours.pem").unlink()
        case _:
            raise AssertionError(what)


SPOILED = [
    ("missing", "key", "own.key", 21),
    ("empty", "certificate", "there is no certificate in it", 20),
    ("another key", "key", "take the two that were made together", 21),
    ("expired", "certificate", "renew it", 20),
    ("a server's", "certificate", "have one made with clientAuth", 20),
    ("no authority", "ca_file", "ours.pem", 19),
]


@pytest.mark.parametrize(("what", "setting", "says", "line"), SPOILED)
def test_a_file_that_can_not_be_used_is_refused_with_its_line(
    ours: Authority, tmp_path: Path, what: str, setting: str, says: str, line: int
) -> None:
    own = ours.issue("gateway.internal", client=True, file="own")
    (tmp_path / "counterfoil.toml").write_text(CONFIGURATION)
    check(tmp_path)
    spoiled(tmp_path, ours, own, what)
    with pytest.raises(ConfigurationError) as refused:
        check(tmp_path)
    said = str(refused.value)
    assert f"counterfoil.toml, line {line}: service payments: tls.{setting}: " in said
    assert says in said


CONFIGURATION = """\
[application]
module = "shop:app"

[services.payments]

[services.other]

[[gateway.routes]]
path = "/payments"
methods = ["POST"]
service = "payments"
identity = false

[gateway.services.other]
attempts = 2

[gateway.services.payments]
[gateway.services.payments.tls]
ca_file = "ours.pem"
certificate = "own.crt"
key = "own.key"
"""


def test_a_reload_with_a_file_that_can_not_be_used_leaves_what_was_in_force(
    ours: Authority, tmp_path: Path
) -> None:
    own = ours.issue("gateway.internal", client=True, file="own")
    tls = ServiceTls(
        ca_file=str(ours.file),
        server_name=NAME,
        certificate=str(own.certificate),
        key=str(own.key),
    )

    def another(gateway: Before, **change: object) -> GatewayConfig:
        changed = msgspec.structs.replace(tls, **change)
        service = msgspec.structs.replace(gateway.config.services["s"], tls=changed)
        return msgspec.structs.replace(gateway.config, services={"s": service})

    with (
        server(serving_as(ours.issue(NAME), clients_of=ours)) as instance,
        before(instance, tls=tls) as gateway,
    ):
        assert gateway.client.get("/a").status_code == 200
        spoiled(tmp_path, ours, own, "expired")
        with pytest.raises(GatewayError, match="renew it") as refused:
            gateway.plane.reload(gateway.config)
        assert refused.value.setting == "services.s.tls.certificate"
        ours.issue("gateway.internal", client=True, file="own")
        with pytest.raises(GatewayError, match="write it without scheme"):
            gateway.plane.reload(another(gateway, server_name="https://payments"))
        assert gateway.client.get("/a").status_code == 200
        assert len(instance.connections) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"protocol": "h2"}, "add tls = {}"),
        ({"protocol": "h2c", "tls": {}}, 'set "h2"'),
        ({"tls": {"certificate": "c.pem"}}, "without its key"),
        ({"tls": {"key": "c.key"}}, "without its certificate"),
        ({"tls": {"verify": False}}, "unknown field"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, object], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"services": {"s": settings}}, GatewayConfig)
