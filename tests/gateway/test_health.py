"""Instances that are checked beside their answers to requests, and asked accordingly."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import http2_upstream
import httpx2
import msgspec
import pytest
from test_attempts import BUSY, endpoints, good, instances, until
from upstream import Asked, Server, gateway, serving

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import HealthCheck, Upstream

OFTEN = HealthCheck(path="/health?of=s", interval_seconds=0.1, timeout_seconds=20.0)
PATIENT = msgspec.structs.replace(OFTEN, interval_seconds=60.0, timeout_seconds=30.0)
PROBE = "GET /health?of=s HTTP/1.1"
AT_ONCE = 64
"""`AT_ONCE` in crates/gateway/src/health.rs."""


@dataclass
class Checked:
    """An instance: how it answers probes, and requests."""

    well: bool = True
    serves: bool = True
    requests: int = 0
    probes: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """Their headers."""

    def __call__(self, asked: Asked, connection: socket.socket) -> None:
        is_probe = asked.line == PROBE
        if is_probe:
            self.probes.append(asked.headers)
        else:
            self.requests += 1
        does = self.well if is_probe else self.serves
        (good if does else busy)(asked, connection)


def busy(_: Asked, connection: socket.socket) -> None:
    connection.sendall(BUSY)


def health(plane: DataPlane, instance: str) -> str:
    return endpoints(plane)[instance]["health"]


def test_an_instance_whose_probes_fail_is_not_asked_until_they_succeed_again() -> None:
    sick, fine = Checked(), Checked()
    with instances(sick, fine, health=OFTEN) as (client, _, plane):
        until(lambda: health(plane, "s-0") == health(plane, "s-1") == "healthy")
        sick.well = False
        until(lambda: health(plane, "s-0") == "unhealthy")
        told = endpoints(plane)["s-0"]
        assert (told["health_trouble"], told["breaker"]) == ("answered 503", "closed")
        assert told["health_changed_seconds"] < 30
        before = sick.requests
        assert all(client.get("/x").is_success for _ in range(30))
        assert (sick.requests, fine.requests) == (before, 30)
        sick.well = True
        until(lambda: health(plane, "s-0") == "healthy")
        assert endpoints(plane)["s-0"]["health_trouble"] is None
        until(lambda: client.get("/x").is_success and sick.requests > before)


def test_it_takes_as_many_failures_and_successes_in_a_row_as_is_said() -> None:
    says = [True, False, False, True, False, False, False, True, False, True, True]
    told = list[str]()

    def answer(asked: Asked, connection: socket.socket) -> None:
        # What came of the probes before this one.
        told.append(health(plane, "s-0"))
        passes = says[min(len(told), len(says)) - 1]
        (good if passes else busy)(asked, connection)

    with gateway(good, health=OFTEN) as (_, _, plane), serving(answer) as server:
        plane.set_endpoints("s", [("s-0", server.address)])
        until(lambda: len(told) > len(says))
    up, down = "healthy", "unhealthy"
    assert told[: len(says) + 1] == ["unchecked", *[up] * 6, *[down] * 4, up]


def test_with_all_instances_out_nobody_is_asked_unless_there_is_a_panic() -> None:
    sick = [Checked(well=False) for _ in range(3)]
    with instances(*sick, health=OFTEN) as (client, _, plane):
        until(lambda: {health(plane, f"s-{n}") for n in range(3)} == {"unhealthy"})
        refused = client.get("/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert [each.requests for each in sick] == [0, 0, 0]
        # A panic trusts neither checks nor breakers, but operators all the same.
        everything = (Route(path="/*", methods=("GET",), service="s", identity=False),)
        panicking = GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=everything,
            services={"s": Upstream(health=OFTEN, panic_share=0.5)},
        )
        plane.reload(panicking)
        assert health(plane, "s-0") == "unhealthy", "what is configured as before keeps its state"
        plane.hold_breaker("s", "s-0", "open")
        until(lambda: client.get("/x").is_success and all(each.requests for each in sick[1:]))
        assert sick[0].requests == 0
        sick[1].well = sick[2].well = True
        until(lambda: health(plane, "s-1") == health(plane, "s-2") == "healthy")
        plane.hold_breaker("s", "s-0", "auto")
        before = sick[0].requests
        assert all(client.get("/x").is_success for _ in range(30))
        assert sick[0].requests == before, "two of three are enough"


def test_an_operator_who_holds_a_breaker_closed_has_the_last_word() -> None:
    sick, fine = Checked(well=False), Checked()
    with instances(sick, fine, health=OFTEN) as (client, _, plane):
        until(lambda: health(plane, "s-0") == "unhealthy")
        plane.hold_breaker("s", "s-0", "closed")
        until(lambda: client.get("/x").is_success and sick.requests)
        assert health(plane, "s-0") == "unhealthy"


def test_probes_and_breakers_know_nothing_of_each_other() -> None:
    """Good probes close no breaker, bad ones open none."""
    refuses, sick = Checked(serves=False), Checked(well=False)
    once = {"attempts": 1, "breaker_failures": 1, "breaker_open_seconds": 600.0}
    with instances(refuses, sick, health=OFTEN, **once) as (client, _, plane):
        until(lambda: health(plane, "s-0") == "healthy" and health(plane, "s-1") == "unhealthy")
        assert client.get("/x").status_code == 503
        probes = len(refuses.probes), len(sick.probes)
        until(lambda: len(refuses.probes) > probes[0] + 3 and len(sick.probes) > probes[1] + 3)
        breakers = {name: each["breaker"] for name, each in endpoints(plane).items()}
        assert breakers == {"s-0": "open", "s-1": "closed"}
        assert client.get("/x").status_code == 503
        assert (refuses.requests, sick.requests) == (1, 0)


def test_an_instance_that_does_not_answer_a_probe_in_time_is_let_go_of() -> None:
    ended = list[bool]()

    def hangs(_: Asked, connection: socket.socket) -> bool:
        ended.append(connection.recv(1) == b"")
        return False

    def breaks_off(_: Asked, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
        return False

    hasty = msgspec.structs.replace(OFTEN, timeout_seconds=0.1)
    with instances(hangs, health=hasty) as (_, _, plane):
        until(lambda: health(plane, "s-0") == "unhealthy")
        assert endpoints(plane)["s-0"]["health_trouble"] == "no answer within 0.1 s"
        until(lambda: len(ended) >= 3 and all(ended))
    with instances(breaks_off, health=OFTEN) as (_, (server,), plane):
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            _, port = nobody.getsockname()
        plane.set_endpoints("s", [("s-0", server.address), ("s-1", f"127.0.0.1:{port}")])
        until(lambda: health(plane, "s-0") == health(plane, "s-1") == "unhealthy")
        assert "refused" in endpoints(plane)["s-1"]["health_trouble"].lower()


def test_what_a_good_answer_is_can_be_said() -> None:
    def moved(_: Asked, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n")

    with instances(moved, health=OFTEN) as (_, _, plane):
        until(lambda: health(plane, "s-0") == "unhealthy")
        assert endpoints(plane)["s-0"]["health_trouble"] == "answered 302"
    with instances(moved, health=msgspec.structs.replace(OFTEN, statuses=(302, 204))) as (
        _,
        _,
        plane,
    ):
        until(lambda: health(plane, "s-0") == "healthy")


def test_probes_are_no_requests_of_clients_and_have_counts_of_their_own(tmp_path: Path) -> None:
    fine, sick = Checked(), Checked(well=False)
    log = tmp_path / "access.jsonl"
    settings = {"limits": {"all": Limit(key="route", rate=0.001, burst=1)}}
    route = {"limits": ("all",)}
    with (
        gateway(good, access_log=log, settings=settings, route=route, health=OFTEN) as (
            _,
            _,
            plane,
        ),
        serving(fine) as first,
        serving(sick) as second,
    ):
        plane.set_endpoints("s", [("s-0", first.address), ("s-1", second.address)])
        until(lambda: len(fine.probes) > 3 and len(sick.probes) > 3)
        until(lambda: health(plane, "s-0") != "unchecked" != health(plane, "s-1"))
        told = httpx2.get(
            f"http://{plane.admin}/metrics", headers={"authorization": "Bearer c"}
        ).text
        counts = dict(
            line.removeprefix("counterfoil_gateway_").rsplit(" ", 1)
            for line in told.splitlines()
            if "health" in line and not line.startswith("#")
        )
        assert int(counts['health_probes_total{service="s",outcome="passed"}']) >= 3
        assert int(counts['health_probes_total{service="s",outcome="failed"}']) >= 3
        assert counts['health_instances{service="s",health="healthy"}'] == "1"
        assert counts['health_instances{service="s",health="unhealthy"}'] == "1"
        assert 'requests_total{route="/*",status="2xx"} 0' in told
        assert 'requests_total{route="/*",status="5xx"} 0' in told
        state = plane.state()
        assert (state["requests"], state["services"]["s"]["in_flight"]) == (0, 0)
        assert (state["limits"][0]["allowed"], state["limits"][0]["refused"]) == (0, 0)
        assert log.read_text() == ""
        names = {"host", "user-agent", "connection"}
        assert all(probe.keys() == names for probe in fine.probes), fine.probes
        assert fine.probes[0]["host"] == first.address


def test_an_instance_that_discovery_drops_is_not_probed_any_more() -> None:
    dropped, stays = Checked(), Checked()
    with instances(dropped, stays, health=OFTEN) as (_, (_, server), plane):
        until(lambda: dropped.probes and stays.probes)
        plane.set_endpoints("s", [("s-1", server.address)])
        one_more = len(stays.probes) + 1
        until(lambda: len(stays.probes) > one_more)  # the last probe to the other has arrived
        before = len(dropped.probes)
        until(lambda: len(stays.probes) > one_more + 5)
        assert len(dropped.probes) <= before + 1, "one may have been under way"
        plane.reload(
            GatewayConfig(
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                tls="off",
                routes=(Route(path="/*", methods=("GET",), service="s", identity=False),),
            )
        )
        assert endpoints(plane)["s-1"]["health"] is None, "without the table there are no checks"


def test_so_many_instances_are_probed_at_once_and_the_others_after_them() -> None:
    go_on = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        go_on.wait(30)
        good(asked, connection)

    number = AT_ONCE + 20
    with gateway(good, health=PATIENT) as (_, _, plane), serving(answer) as server:
        plane.set_endpoints("s", [(f"s-{n}", server.address) for n in range(number)])
        until(lambda: len(server.asked) >= AT_ONCE)
        time.sleep(0.2)  # for one too many
        assert len(server.asked) == AT_ONCE
        go_on.set()
        until(lambda: {each["health"] for each in endpoints(plane).values()} == {"healthy"})
        assert len(server.asked) == number, "one each"


def test_instances_that_speak_http2_are_asked_in_it() -> None:
    def answer(asked: http2_upstream.Asked, connection: http2_upstream.Connection) -> None:
        connection.respond(asked, status="200" if well else "500")

    well = True
    upstream = http2_upstream.Server(answer)
    with (
        gateway(good, health=OFTEN, protocol="h2c") as (_, _, plane),
        http2_upstream.serving(upstream) as server,
    ):
        plane.set_endpoints("s", [("s-0", server.address)])
        until(lambda: health(plane, "s-0") == "healthy")
        seen = server.asked[0].headers
        assert (seen[":method"], seen[":path"]) == ("GET", "/health?of=s")
        assert (seen[":scheme"], seen[":authority"]) == ("http", server.address)
        well = False
        until(lambda: health(plane, "s-0") == "unhealthy")


@contextmanager
def closed(upstream: Server) -> Iterator[DataPlane]:
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(Route(path="/*", methods=("GET",), service="s", identity=False),),
        services={"s": Upstream(health=PATIENT)},
    )
    plane = DataPlane(config, access_log=None, admin_credential="c", opened=False)
    plane.set_endpoints("s", [("s-0", upstream.address)])
    yield plane
    plane.drain(5.0)


def test_a_gateway_that_starts_waits_for_the_first_probes() -> None:
    """Else it would ask an instance that the gateway before it has put out."""
    go_on = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        go_on.wait(30)
        busy(asked, connection)

    with serving(answer) as server, closed(server) as plane:
        assert plane.await_instances(0.05, threading.Event()) == ["s"]
        go_on.set()
        assert plane.await_instances(30.0, threading.Event()) == []
        assert health(plane, "s-0") == "unhealthy"
        plane.open()
        assert httpx2.get(f"http://{plane.listen}/x").status_code == 503
        assert [asked.line for asked in server.asked] == [PROBE]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "health"}, "such as /healthz"),
        ({"path": "/a b"}, "such as /healthz"),
        ({"path": "/a#b"}, "such as /healthz"),
        ({"path": "/", "interval_seconds": 0.01}, "interval_seconds is 0.1 to 3600"),
        ({"path": "/", "timeout_seconds": 600}, "timeout_seconds is 0.01 to 60"),
        ({"path": "/", "failures": 0}, "1 to 100"),
        ({"path": "/", "statuses": [100]}, "200 to 599"),
        ({}, "path"),
        ({"path": "/", "retries": 3}, "retries"),
    ],
)
def test_what_can_not_be_is_refused_with_what_to_set(
    settings: dict[str, object], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"health": settings}, Upstream)


def test_a_path_that_python_lets_pass_is_one_to_the_data_plane() -> None:
    """All that may stand in one does."""
    path = "/" + "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "#<>")
    with gateway(good, health=HealthCheck(path=path)) as (_, server, _):
        until(lambda: server.asked)
        assert server.asked[0].line == f"GET {path} HTTP/1.1"
