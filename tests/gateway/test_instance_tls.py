"""TLS to instances: what goes over it, who is taken for one, and who the gateway is to them."""

import socket
import ssl
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from authority import Authority, serving_as
from securing import Before, Protocol, before, good, server, speaking
from sharing import until
from upstream import LARGE, OK, Asked, serving, sized
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import HealthCheck, ServiceTls, Upstream

NAME = "payments.internal"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"))


def trusting(authority: Authority, *, name: str = NAME) -> ServiceTls:
    return ServiceTls(ca_file=str(authority.file), server_name=name)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_request_goes_over_tls_to_the_name_that_the_certificate_is_for(
    ours: Authority, protocol: Protocol
) -> None:
    context = serving_as(ours.issue(NAME, address=""), protocol)
    with (
        speaking(protocol, context) as instance,
        before(instance, tls=trusting(ours), protocol=protocol) as gateway,
    ):
        assert [gateway.client.get("/a").text for _ in range(3)] == ["good"] * 3
        large = gateway.client.post("/b", content=LARGE)
        assert (large.status_code, large.text) == (200, "good")
        port = instance.address.rpartition(":")[2]
        asked = instance.asked[-1]
        assert asked.body == LARGE
        host = asked.headers[":authority" if protocol == "h2" else "host"]
        assert host == f"{NAME}:{port}"
        assert protocol != "h2" or asked.headers[":scheme"] == "https"
        assert len(instance.connections) == 1, "it is kept"
        assert gateway.handshakes() == {"full": 1, "resumed": 0, "failed": 0}


def test_without_a_name_the_certificate_is_for_the_instances_address(ours: Authority) -> None:
    context = serving_as(ours.issue("elsewhere.internal"))
    with (
        server(context) as instance,
        before(instance, tls=ServiceTls(ca_file=str(ours.file))) as gateway,
    ):
        assert gateway.client.get("/a").text == "good"
        assert instance.asked[0].headers["host"] == instance.address


def test_a_large_answer_and_one_until_the_end_of_the_connection_come_whole(
    ours: Authority,
) -> None:
    def answer(asked: Asked, connection: socket.socket) -> bool | None:
        if "sized" in asked.line:
            connection.sendall(sized(LARGE))
            return None
        connection.sendall(OK + b"\r\n" + LARGE)
        if "torn" not in asked.line and isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
        return False

    with (
        server(serving_as(ours.issue(NAME)), answer) as instance,
        before(instance, tls=trusting(ours)) as gateway,
    ):
        assert gateway.client.get("/sized").content == LARGE
        assert gateway.client.get("/until-its-end").content == LARGE
        # Whoever cuts a connection over TLS must not get away with half of an answer.
        with pytest.raises(Exception, match=r"incomplete|closed|peer"):
            gateway.client.get("/torn")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_a_session_is_resumed_with_the_instance_that_it_began_with(
    ours: Authority, version: ssl.TLSVersion
) -> None:
    begun: list[tuple[str | None, bool | None]] = []

    def answer(_: Asked, connection: socket.socket) -> bool:
        assert isinstance(connection, ssl.SSLSocket)
        begun.append((connection.version(), connection.session_reused))
        connection.sendall(sized(b"good"))
        return False

    context = serving_as(ours.issue(NAME), at_most=version)
    with server(context, answer) as instance, before(instance, tls=trusting(ours)) as gateway:
        for _ in range(3):
            assert gateway.client.get("/a").status_code == 200
        spoken = version.name.replace("_", ".")
        assert begun == [(spoken, False), (spoken, True), (spoken, True)]
        assert gateway.handshakes() == {"full": 1, "resumed": 2, "failed": 0}


def refused(gateway: Before, says: str) -> None:
    """No instance is asked, and the client is told what it is told when none can be reached."""
    answered = gateway.client.post("/a", content=b"once")
    assert answered.status_code == 502
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.json()["detail"] == "the service can't be reached"
    assert says in (gateway.trouble() or "")
    assert gateway.handshakes()["failed"] >= 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("foreign", "vouches for its certificate"),
        ("name", f"its certificate is for shop.internal, 127.0.0.1, not {NAME}"),
        ("expired", "its certificate expired on "),
        ("plain", "see whether it speaks TLS"),
        ("no HTTP/2", 'set protocol = "http/1.1"'),
    ],
)
def test_who_is_not_taken_for_an_instance_is_asked_nothing(
    ours: Authority,
    foreign: Authority,
    fault: str,
    says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    issued = {
        "foreign": lambda: foreign.issue(NAME),
        "name": lambda: ours.issue("shop.internal"),
        "expired": lambda: ours.issue(NAME, expired=True),
    }.get(fault, lambda: ours.issue(NAME))()
    protocol = "h2" if fault == "no HTTP/2" else "http/1.1"
    context = None if fault == "plain" else serving_as(issued, "http/1.1")
    with (
        server(context) as instance,
        before(
            instance, tls=trusting(ours), protocol=protocol, attempts=1, breaker_failures=2
        ) as gateway,
    ):
        refused(gateway, says)
        assert gateway.endpoint()["breaker"] == "closed"
        refused(gateway, says)
        assert gateway.endpoint()["breaker"] == "open"
        assert gateway.client.get("/a").status_code == 503
        assert instance.asked == []
    told = [line for line in capfd.readouterr().err.splitlines() if "instance_not_secured" in line]
    assert len(told) == 1, "once, until it changes"
    assert '"instance":"s-0"' in told[0]
    assert '"service":"s"' in told[0]
    assert says.replace('"', '\\"') in told[0]


def test_an_instance_that_answers_a_handshake_in_plain_text_is_told_from_others(
    ours: Authority,
) -> None:
    def answer(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(65_536)
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        before(tls=trusting(ours), attempts=1) as gateway,
    ):
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        host, port = listener.getsockname()
        gateway.plane.set_endpoints("s", [("s-0", f"{host}:{port}")])
        refused(gateway, "it does not speak TLS")


def test_who_hangs_in_the_handshake_is_given_up_in_the_time_of_a_connection(
    ours: Authority,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        server(serving_as(ours.issue(NAME))) as well,
        before(tls=trusting(ours), connect_timeout_seconds=0.2) as gateway,
    ):
        host, port = listener.getsockname()
        gateway.plane.set_endpoints("s", [("s-0", f"{host}:{port}"), ("s-1", well.address)])
        answers = [gateway.client.post("/a", content=b"once").text for _ in range(6)]
        assert answers == ["good"] * 6, "nothing was sent, so another instance may be asked"
        assert gateway.trouble() == "it did not finish the TLS handshake in time"


def test_what_was_wrong_with_an_instance_is_forgotten_when_it_is_over(
    ours: Authority, foreign: Authority
) -> None:
    with (
        server(serving_as(foreign.issue(NAME))) as instance,
        before(instance, tls=trusting(ours), breaker_open_seconds=0.01) as gateway,
    ):
        refused(gateway, "vouches for its certificate")
        instance.tls = serving_as(ours.issue(NAME))
        until(lambda: gateway.client.get("/a").status_code == 200)
        assert gateway.trouble() is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_an_instance_that_asks_who_the_gateway_is_gets_its_certificate(
    ours: Authority, foreign: Authority, version: ssl.TLSVersion
) -> None:
    own = ours.issue("gateway.internal", client=True)
    strange = foreign.issue("gateway.internal", client=True)
    context = serving_as(ours.issue(NAME), clients_of=ours, at_most=version)
    file, name = str(ours.file), NAME
    seen: list[object] = []

    def answer(asked: Asked, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        peer = connection.getpeercert()
        seen.append(peer and peer["subject"])
        good(asked, connection)

    with server(context, answer) as instance:
        with before(instance, tls=trusting(ours)) as gateway:
            refused(gateway, "set certificate and key")
        shown = ServiceTls(
            ca_file=file,
            server_name=name,
            certificate=str(strange.certificate),
            key=str(strange.key),
        )
        with before(instance, tls=shown) as gateway:
            refused(gateway, "it does not take the gateway's certificate")
        assert instance.asked == []
        shown = ServiceTls(
            ca_file=file, server_name=name, certificate=str(own.certificate), key=str(own.key)
        )
        with before(instance, tls=shown) as gateway:
            assert gateway.client.post("/a", content=b"once").text == "good"
        assert seen == [((("commonName", "gateway.internal"),),)]


def test_in_http2_who_the_gateway_is_is_asked_before_it_asks(ours: Authority) -> None:
    context = serving_as(ours.issue(NAME), "h2", clients_of=ours)
    with (
        speaking("h2", context) as instance,
        before(instance, tls=trusting(ours), protocol="h2") as gateway,
    ):
        refused(gateway, "set certificate and key")
        assert instance.asked == []


def test_two_services_at_one_address_have_connections_of_their_own(ours: Authority) -> None:
    issued = ours.issue(NAME)
    with server(serving_as(issued)) as instance, ExitStack() as stack:
        secured = {
            "named": Upstream(tls=trusting(ours)),
            "addressed": Upstream(tls=ServiceTls(ca_file=str(ours.file))),
            "wrong": Upstream(tls=trusting(ours, name="other.internal"), attempts=1),
        }
        routes = [
            Route(path=f"/{name}", methods=("GET",), service=name, identity=False)
            for name in secured
        ]
        config = GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=tuple(routes),
            services=secured,
        )
        plane = DataPlane(config, access_log=None, admin_credential="c")
        stack.callback(plane.drain, 5.0)
        for name in secured:
            plane.set_endpoints(name, [(f"{name}-0", instance.address)])
        with httpx2.Client(base_url=f"http://{plane.listen}") as client:
            statuses = [client.get(f"/{name}").status_code for name in [*secured, *secured]]
        assert statuses == [200, 200, 502] * 2
        assert len(instance.asked) == 4
        assert len(instance.connections) == 4, "one for each of two, and each that failed"


def test_a_websocket_goes_over_tls(ours: Authority) -> None:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    context = serving_as(ours.issue(NAME), "http/1.1")
    with serve(echo, "127.0.0.1", 0, ssl=context, max_size=None) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        with before(tls=trusting(ours)) as gateway:
            host, port = instance.socket.getsockname()
            gateway.plane.set_endpoints("s", [("s-0", f"{host}:{port}")])
            with connect(f"ws://{gateway.plane.listen}/ws", max_size=None) as socket_:
                for message in ("hello", LARGE):
                    socket_.send(message)
                    assert socket_.recv(timeout=20) == message
        instance.shutdown()


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_checks_go_over_tls_and_say_why_they_fail(
    ours: Authority, foreign: Authority, protocol: Protocol
) -> None:
    often = HealthCheck(path="/health", interval_seconds=0.1, failures=1, successes=1)
    with (
        speaking(protocol, serving_as(ours.issue(NAME), protocol)) as instance,
        before(instance, tls=trusting(ours), protocol=protocol, health=often) as gateway,
    ):
        until(lambda: gateway.endpoint()["health"] == "healthy")
        instance.tls = serving_as(foreign.issue(NAME), protocol)
        until(lambda: gateway.endpoint()["health"] == "unhealthy")
        assert "vouches for its certificate" in gateway.endpoint()["health_trouble"]
        instance.tls = serving_as(ours.issue(NAME), protocol)
        until(lambda: gateway.endpoint()["health"] == "healthy")


def test_keys_are_shown_nowhere(ours: Authority, capfd: pytest.CaptureFixture[str]) -> None:
    own = ours.issue("gateway.internal", client=True)
    tls = ServiceTls(ca_file=str(ours.file), certificate=str(own.certificate), key=str(own.key))
    with serving(good) as plain, before(plain, tls=tls) as gateway:
        assert gateway.client.get("/a").status_code == 502
        operator = {"authorization": "Bearer c"}
        pages = [
            gateway.client.get(f"http://{gateway.plane.admin}{path}", headers=operator).text
            for path in ("/config", "/state", "/metrics")
        ]
    pages.append(capfd.readouterr().err)
    secret = Path(own.key).read_text().splitlines()[1]
    assert str(own.key) in pages[0], "its place may be known"
    assert not any(secret in page for page in pages)
