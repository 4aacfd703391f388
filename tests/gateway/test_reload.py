"""Another configuration put into force while the data plane serves."""

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import pytest
from upstream import Asked, Server, gateway, sized

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.services import Upstream

CHANGES = int(os.environ.get("COUNTERFOIL_CHANGES", "40"))
"""Configurations put into force under load; 200 take some ten seconds."""

TAKEOVERS = int(os.environ.get("COUNTERFOIL_TAKEOVERS", "3"))


def answer(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(asked.line.split()[1].encode()))


def config(**changes: object) -> GatewayConfig:
    """One service behind `/a`, which everybody may ask."""
    base = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(Route(path="/a", methods=("GET",), service="s", identity=False),),
    )
    return msgspec.structs.replace(base, **changes)


@contextmanager
def serving(first: GatewayConfig, server: Server) -> Iterator[DataPlane]:
    plane = DataPlane(first, access_log=None, admin_credential="c", opened=False)
    plane.set_endpoints("s", [("s-1", server.address)])
    plane.open()
    yield plane
    plane.drain(5.0)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    yield server
    server.close()


@dataclass
class Load:
    """Asks without a pause until it is told to end; keeps what was not a 200."""

    base: str
    end: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    failed: list[object] = field(default_factory=list[object])

    def run(self) -> None:
        with httpx2.Client(base_url=self.base, timeout=20) as client:
            while not self.end.is_set():
                try:
                    status = client.get("/a").status_code
                except httpx2.TransportError as error:
                    status = repr(error)
                self.asked += 1
                if status != 200:
                    self.failed.append(status)


def test_many_changes_under_load_lose_no_request(server: Server) -> None:
    with serving(config(), server) as plane, ExitStack() as ending:
        loads = [Load(f"http://{plane.listen}") for _ in range(2)]
        for load in loads:
            thread = threading.Thread(target=load.run)
            thread.start()
            ending.callback(thread.join)
            ending.callback(load.end.set)
        client = ending.enter_context(httpx2.Client(base_url=f"http://{plane.listen}", timeout=20))
        for number in range(1, CHANGES + 1):
            other = Route(path=f"/{number}", methods=("GET",), service="s", identity=False)
            limit = Limit(key="address", rate=1e6 + number, burst=1_000_000)
            first = Route(path="/a", methods=("GET",), service="s", identity=False, limits=("all",))
            changed = config(
                routes=(first, other) if number % 2 else (other, first),
                limits={"all": limit},
                services={"s": Upstream(concurrency=100 + number, breaker_failures=5 + number % 3)},
            )
            assert plane.reload(changed) == number + 1
            assert client.get(f"/{number}").status_code == 200
            assert client.get(f"/{number - 1}").status_code == 404
        ending.close()
        assert [load.failed for load in loads] == [[], []]
        assert all(load.asked > CHANGES for load in loads)


def test_another_gateway_takes_over_the_port_and_no_connection_breaks(server: Server) -> None:
    """As for a new version: both listen, then the old one drains. Each request has a connection
    of its own, so that many stand at the old one's door when it closes."""
    failed = list[Exception]()
    answered = 0
    end = threading.Event()

    def ask(address: str) -> None:
        nonlocal answered
        while not end.is_set():
            try:
                with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as client:
                    client.request("GET", "/a")
                    answer = client.getresponse()
                assert answer.status == 200, answer.status
                answered += 1
            except Exception as error:
                failed.append(error)

    with ExitStack() as stack:
        plane = stack.enter_context(serving(config(), server))
        clients = [threading.Thread(target=ask, args=(plane.listen,)) for _ in range(4)]
        for client in clients:
            client.start()
        for _ in range(TAKEOVERS):
            before = answered
            following = stack.enter_context(serving(config(listen=plane.listen), server))
            plane.drain(20.0)
            while answered < before + 50:
                assert not failed
                time.sleep(0.01)
            plane = following
        end.set()
        for client in clients:
            client.join()
    assert not failed


def test_a_gateway_that_knows_no_instance_yet_leaves_the_port_to_the_one_that_has_it(
    server: Server,
) -> None:
    """Its port for operators is served meanwhile; who connects is answered by the other."""
    with serving(config(), server) as plane:
        following = DataPlane(
            config(listen=plane.listen), access_log=None, admin_credential="c", opened=False
        )
        for _ in range(40):  # each a connection, of which a second listener would get half
            assert httpx2.get(f"http://{plane.listen}/a").status_code == 200
        assert following.state()["requests"] == 0
        state = httpx2.get(f"http://{following.admin}/state", headers={"authorization": "Bearer c"})
        assert state.json()["services"]["s"]["endpoints"] == []
        assert following.await_instances(0.05, threading.Event()) == ["s"]
        told = threading.Timer(0.05, following.set_endpoints, ("s", [("s-1", server.address)]))
        told.start()
        assert following.await_instances(20.0, threading.Event()) == []
        told.join()
        following.open()
        following.open()  # once more does nothing
        plane.drain(5.0)
        for _ in range(1_000):  # what stands at the door of the first is still let in there
            assert httpx2.get(f"http://{following.listen}/a").status_code == 200
            if following.state()["requests"]:
                break
        assert following.state()["requests"] == 1
        following.drain(5.0)


def test_a_port_that_is_not_opened_yet_refuses_connections(server: Server) -> None:
    plane = DataPlane(config(), access_log=None, admin_credential="c", opened=False)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://{plane.listen}/a")
    plane.set_endpoints("s", [("s-1", server.address)])
    plane.open()
    assert httpx2.get(f"http://{plane.listen}/a").status_code == 200
    plane.drain(5.0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_port_that_could_not_be_opened_is_opened_once_it_can_be(
    server: Server, threads: int
) -> None:
    plane = DataPlane(config(threads=threads), access_log=None, admin_credential="c", opened=False)
    plane.set_endpoints("s", [("s-1", server.address)])
    host, _, port = plane.listen.rpartition(":")
    with socket.socket() as other:  # it listens without sharing
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, int(port)))
        other.listen()
        for _ in range(2):
            with pytest.raises(GatewayError, match="can't listen on"):
                plane.open()
    plane.open()
    for _ in range(20):  # each a connection, to whichever thread
        assert httpx2.get(f"http://{plane.listen}/a").status_code == 200
    plane.open()  # once more does nothing
    plane.drain(5.0)


def test_a_request_under_way_ends_as_it_began() -> None:
    answering = threading.Event()

    def slow(_: Asked, connection: socket.socket) -> None:
        assert answering.wait(20)
        connection.sendall(sized(b"old"))

    with gateway(slow, attempt_timeout_seconds=30.0) as (client, server, plane):
        answers: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.get("/x")))
        asking.start()
        while not server.asked:
            time.sleep(0.01)
        before = config(
            request_body_limit=4_000_000,
            routes=(Route(path="/y", methods=("GET",), service="s", identity=False),),
            services={"s": Upstream(concurrency=1, attempt_timeout_seconds=31.0)},
        )
        plane.reload(before)
        assert plane.state()["services"]["s"]["in_flight"] == 1
        assert httpx2.get(f"http://{plane.listen}/x").status_code == 404
        refused = httpx2.get(f"http://{plane.listen}/y")
        assert refused.status_code == 503, "what began before still counts"
        answering.set()
        asking.join(20)
        assert answers[0].content == b"old"
        assert httpx2.get(f"http://{plane.listen}/y").content == b"old"
        assert plane.state()["services"]["s"]["in_flight"] == 0


def test_what_is_configured_as_before_keeps_its_state(server: Server) -> None:
    route = Route(path="/a", methods=("GET",), service="s", identity=False, limits=("few",))
    few = Limit(key="address", rate=0.001, burst=2)
    with serving(config(routes=(route,), limits={"few": few}), server) as plane:
        base = f"http://{plane.listen}"
        assert [httpx2.get(f"{base}/a").status_code for _ in range(3)] == [200, 200, 429]
        more = Route(path="/b", methods=("GET",), service="s", identity=False)
        plane.reload(config(routes=(more, route), limits={"few": few}))
        assert httpx2.get(f"{base}/a").status_code == 429
        assert httpx2.get(f"{base}/b").status_code == 200, "instances were told before the reload"
        (limit,) = plane.state()["limits"]
        assert (limit["allowed"], limit["refused"]) == (2, 2)
        plane.reload(config(routes=(route,), limits={"few": msgspec.structs.replace(few, burst=3)}))
        assert httpx2.get(f"{base}/a").status_code == 200, "a limit that changed begins anew"
        (limit,) = plane.state()["limits"]
        assert (limit["allowed"], limit["refused"]) == (3, 2), "but its counts do not"


def test_an_open_breaker_stays_open_unless_its_settings_change() -> None:
    def broken(_: Asked, __: socket.socket) -> bool:
        return False

    once = {"attempts": 1, "breaker_failures": 1, "breaker_open_seconds": 600.0}
    with gateway(broken, **once) as (client, server, plane):
        assert client.get("/x").status_code == 502

        def breaker() -> str:
            (endpoint,) = plane.state()["services"]["s"]["endpoints"]
            return endpoint["breaker"]

        everything = (Route(path="/*", methods=("GET",), service="s", identity=False),)
        assert breaker() == "open"
        stays = Upstream(attempts=1, breaker_failures=1, breaker_open_seconds=600.0, concurrency=9)
        plane.reload(config(routes=everything, services={"s": stays}, request_body_limit=4_000_000))
        assert breaker() == "open"
        assert client.get("/x").status_code == 503
        assert len(server.asked) == 1
        plane.reload(config(routes=everything, services={"s": Upstream(breaker_failures=2)}))
        assert breaker() == "closed"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"listen": "127.0.0.1:1"}, "listen can't change while the gateway runs"),
        ({"threads": 2}, "threads can't change"),
        ({"routes": (Route(path="/a", methods=("GET",), service="s"),)}, "asks for an identity"),
        (
            {
                "routes": (
                    Route(path="/a", methods=("GET",), service="s", identity=False, limits=("x",)),
                )
            },
            "unknown limit x",
        ),
    ],
)
def test_a_configuration_with_a_fault_is_refused_whole(
    server: Server, changed: dict[str, object], says: str
) -> None:
    with serving(config(), server) as plane:
        with pytest.raises(GatewayError, match=says):
            plane.reload(config(**changed))
        assert plane.state()["configuration"]["version"] == 1
        assert says in plane.state()["configuration"]["refused"]
        assert httpx2.get(f"http://{plane.listen}/a").status_code == 200


def test_a_configuration_that_is_refused_leaves_the_places_of_a_service_as_they_are(
    server: Server,
) -> None:
    needs_identity = (Route(path="/a", methods=("GET",), service="s"),)
    fewer = {"s": Upstream(concurrency=1)}
    with serving(config(), server) as plane:
        before = plane.state()["services"]["s"]["limit"]
        with pytest.raises(GatewayError, match="asks for an identity"):
            plane.reload(config(routes=needs_identity, services=fewer))
        assert plane.state()["services"]["s"]["limit"] == before
        plane.reload(config(services=fewer))
        assert plane.state()["services"]["s"]["limit"] == 1


def test_a_reload_lets_go_of_a_rotated_access_log(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    plane = DataPlane(config(), access_log=log, admin_credential="c")
    plane.set_endpoints("s", [("s-1", server.address)])
    httpx2.get(f"http://{plane.listen}/a")
    log.rename(tmp_path / "rotated.jsonl")
    plane.reload(config())
    httpx2.get(f"http://{plane.listen}/a")
    assert len(log.read_text().splitlines()) == 1
    plane.drain(5.0)


def test_a_service_that_no_route_led_to_is_asked_from_the_first_request_on(server: Server) -> None:
    other = Route(path="/a", methods=("GET",), service="other", identity=False)
    known = {"other": [("o-1", server.address)], "nobody": [("n-1", "127.0.0.1:1")]}
    with (
        serving(config(), server) as plane,
        httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client,
    ):
        plane.reload(config(routes=(other,)), instances=known)
        assert client.get("/a").status_code == 200
        # Those of a service that stays are known already.
        plane.reload(config(routes=(other,)), instances={"other": []})
        assert client.get("/a").status_code == 200


def test_a_reload_with_an_instance_that_is_nowhere_changes_nothing(server: Server) -> None:
    other = Route(path="/a", methods=("GET",), service="other", identity=False)
    with serving(config(), server) as plane:
        with pytest.raises(GatewayError):
            plane.reload(config(routes=(other,)), instances={"other": [("o-1", "no\naddress")]})
        assert httpx2.get(f"http://{plane.listen}/a").status_code == 200
