"""Which instance is asked, how often, and when it is left alone."""

import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import msgspec
import pytest
from sharing import until
from upstream import Asked, Server, gateway, serving, sized

from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.services import Upstream

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


def good(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"good"))


def busy(_: Asked, connection: socket.socket) -> None:
    connection.sendall(BUSY)


def endpoints(plane: DataPlane) -> dict[str, dict[str, Any]]:
    return {each["instance"]: each for each in plane.state()["services"]["s"]["endpoints"]}


@contextmanager
def instances(
    *answers: Callable[[Asked, socket.socket], bool | None], **protection: Any
) -> Generator[tuple[httpx2.Client, list[Server], DataPlane], None, None]:
    """A client of a gateway of as many instances, named s-0, s-1 and so on."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(answer)) for answer in answers]
        client, _, plane = stack.enter_context(gateway(good, **protection))
        plane.set_endpoints("s", [(f"s-{n}", server.address) for n, server in enumerate(servers)])
        yield client, servers, plane


def test_an_open_breaker_refuses_without_calling_the_backend_until_its_probes_succeed() -> None:
    healthy = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        (good if healthy.is_set() else busy)(asked, connection)

    protection = {"breaker_failures": 3, "breaker_probes": 2, "breaker_open_seconds": 0.5}
    with instances(answer, attempts=1, **protection) as (client, (server,), plane):
        assert [client.get("/x").status_code for _ in range(3)] == [503] * 3
        opened = endpoints(plane)["s-0"]
        assert (opened["breaker"], opened["breaker_reason"]) == ("open", "3 failures in a row")
        refused = client.get("/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert len(server.asked) == 3
        healthy.set()
        until(lambda: client.get("/x").is_success)
        assert endpoints(plane)["s-0"]["breaker"] == "half-open"
        assert client.get("/x").is_success
        closed = endpoints(plane)["s-0"]
        assert (closed["breaker"], closed["breaker_reason"]) == ("closed", "its probes succeeded")
        assert closed["breaker_changed_seconds"] < 10


def test_a_part_of_requests_that_fail_opens_a_breaker() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        (good if len(server.asked) % 2 else busy)(asked, connection)

    with instances(
        answer, attempts=1, breaker_ratio=0.4, breaker_minimum=10, breaker_open_seconds=60.0
    ) as (client, (server,), plane):
        until(lambda: "no instance" in client.get("/x").text)
        assert 10 <= len(server.asked) <= 12
        assert "of the last 1" in endpoints(plane)["s-0"]["breaker_reason"]


def test_an_operator_holds_a_breaker_open_or_closed_and_lets_go() -> None:
    with instances(good, attempts=1, breaker_failures=1) as (client, (server,), plane):
        plane.hold_breaker("s", "s-0", "open")
        assert client.get("/x").status_code == 503
        held = endpoints(plane)["s-0"]
        assert (held["breaker"], held["breaker_held"]) == ("open", True)
        assert (held["breaker_reason"], server.asked) == ("held open by an operator", [])
        plane.hold_breaker("s", "s-0", "auto")
        assert client.get("/x").is_success
        server.answer = busy
        plane.hold_breaker("s", "s-0", "closed")
        assert [client.get("/x").status_code for _ in range(3)] == [503] * 3
        assert len(server.asked) == 4
        with pytest.raises(GatewayError, match="no instance s-9"):
            plane.hold_breaker("s", "s-9", "open")
        with pytest.raises(GatewayError, match="service other"):
            plane.hold_breaker("other", "s-0", "open")


def test_in_an_outage_retries_stay_within_their_budget() -> None:
    with instances(busy, busy, retry_budget=0.1, breaker_failures=1_000_000) as (
        client,
        servers,
        plane,
    ):
        began = time.monotonic()
        assert all(client.get("/x").status_code == 503 for _ in range(200))
        took = time.monotonic() - began
        asked = sum(len(server.asked) for server in servers)
        assert 200 < asked <= 200 * (1 + 0.1) + 10 + took + 1
        told = plane.state()["services"]["s"]
        assert told["retries_refused"] > 0
        assert told["retries"] == asked - 200


def test_a_fault_that_passes_is_hidden() -> None:
    def answer(asked: Asked, connection: socket.socket) -> bool | None:
        if len(server.asked) % 3 == 0:
            return False  # hangs up
        good(asked, connection)
        return None

    with instances(answer, retry_budget=1.0) as (client, (server,), _):
        assert all(client.get("/x").is_success for _ in range(30))


def test_an_instance_is_asked_again_when_it_says_if_that_is_soon() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if len(server.asked) == 2:
            good(asked, connection)
        else:
            connection.sendall(BUSY[:-2] + b"retry-after: 1\r\n\r\n")

    with instances(answer, attempts=2) as (client, (server,), _):
        began = time.monotonic()
        assert client.get("/x").is_success
        assert time.monotonic() - began >= 1.0


def test_waiting_as_an_instance_asks_takes_none_of_the_time_that_it_has_for_its_answer() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if len(server.asked) == 2:
            good(asked, connection)
        else:
            connection.sendall(BUSY[:-2] + b"retry-after: 1\r\n\r\n")

    with instances(answer, attempts=2, attempt_timeout_seconds=0.9) as (client, (server,), _):
        assert client.get("/x").is_success
    with instances(answer, request_timeout_seconds=0.9) as (client, (server,), _):
        began = time.monotonic()
        assert client.get("/x").status_code == 503, "what is asked for is more than there is"
        assert time.monotonic() - began < 0.9
        assert len(server.asked) == 1


def test_an_instance_that_wants_to_be_left_alone_for_long_is_and_another_is_asked_at_once() -> None:
    def away(_: Asked, connection: socket.socket) -> None:
        connection.sendall(BUSY[:-2] + b"retry-after: 30\r\n\r\n")

    with instances(away) as (client, (server,), _):
        refused = client.get("/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert len(server.asked) == 1
    with instances(away, good, breaker_failures=1_000, retry_budget=1.0) as (client, servers, _):
        assert all(client.get("/x").is_success for _ in range(20))
        assert servers[0].asked


def test_a_hedge_answers_for_an_instance_that_dawdles_and_its_connection_ends() -> None:
    go_on = threading.Event()
    ended = threading.Event()

    def dawdles(asked: Asked, connection: socket.socket) -> bool | None:
        if asked.line.startswith("POST"):
            go_on.wait(20)
            connection.sendall(sized(b"late"))
            return None
        if connection.recv(1) == b"":
            ended.set()
        return False

    with instances(dawdles, good, hedge_after_seconds=0.05, attempt_timeout_seconds=20.0) as (
        client,
        servers,
        plane,
    ):
        until(lambda: client.get("/x").content == b"good" and servers[0].asked)
        assert ended.wait(20)
        assert plane.state()["services"]["s"]["hedges"] >= 1
        # What isn't safe to repeat is never hedged.
        plane.hold_breaker("s", "s-1", "open")
        answers: list[bytes] = []
        posting = threading.Thread(
            target=lambda: answers.append(httpx2.post(f"http://{plane.listen}/x").content)
        )
        posting.start()
        until(lambda: servers[0].asked[-1].line.startswith("POST"))
        plane.hold_breaker("s", "s-1", "auto")
        time.sleep(0.2)  # longer than a hedge waits
        go_on.set()
        posting.join(20)
        assert answers == [b"late"]
        assert not any(asked.line.startswith("POST") for asked in servers[1].asked)


@pytest.mark.parametrize("balance", ["least_requests", "peak_ewma"])
def test_an_instance_that_is_slow_gets_less(balance: str) -> None:
    def slow(asked: Asked, connection: socket.socket) -> None:
        time.sleep(0.2)
        good(asked, connection)

    with instances(slow, good, good, balance=balance) as (_, servers, plane):

        def ask() -> None:
            with httpx2.Client(base_url=f"http://{plane.listen}") as client:
                for _ in range(25):
                    assert client.get("/x").is_success

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked = [len(server.asked) for server in servers]
        assert sum(asked) == 150
        assert asked[0] < min(asked[1:])


def test_an_instance_that_is_new_starts_slowly() -> None:
    with instances(good, slow_start_seconds=3_000.0) as (client, (server,), plane):
        assert client.get("/x").is_success
        with serving(good) as newcomer:
            plane.set_endpoints("s", [("s-0", server.address), ("s-1", newcomer.address)])
            # Both are young; a tenth of the chance each is the same chance.
            until(lambda: client.get("/x").is_success and newcomer.asked)


def test_when_too_few_instances_are_left_all_are_asked() -> None:
    with instances(good, good, good, panic_share=0.5, breaker_open_seconds=60.0) as (
        client,
        servers,
        plane,
    ):
        for number in (0, 1):
            servers[number].answer = busy
        until(
            lambda: (
                client.get("/x").is_success
                and [each["breaker"] for each in endpoints(plane).values()].count("open") == 2
            )
        )
        for number in (0, 1):
            servers[number].answer = good
        before = [len(server.asked) for server in servers]
        assert all(client.get("/x").is_success for _ in range(60))
        assert all(len(server.asked) > was for server, was in zip(servers, before, strict=True))
        plane.hold_breaker("s", "s-0", "open")  # an operator is obeyed all the same
        before = len(servers[0].asked)
        assert all(client.get("/x").is_success for _ in range(30))
        assert len(servers[0].asked) == before


def test_all_attempts_together_take_no_longer_than_a_request_may() -> None:
    done = threading.Event()

    def never(_: Asked, connection: socket.socket) -> bool:
        done.wait(20)
        return False

    with instances(
        never, attempts=50, attempt_timeout_seconds=0.15, request_timeout_seconds=0.4
    ) as (client, (server,), _):
        assert client.get("/x").status_code == 504
        assert 2 <= len(server.asked) <= 4
        done.set()


def test_what_can_not_be_is_refused_with_what_to_set() -> None:
    for setting, value, says in (
        ("breaker_ratio", 1.5, "breaker_ratio"),
        ("retry_budget", -1, "retry_budget"),
        ("hedge_after_seconds", 0, "hedge_after_seconds"),
        ("queue_timeout_seconds", 1e9, "queue_timeout_seconds"),
    ):
        with pytest.raises(msgspec.ValidationError, match=says):
            msgspec.convert({setting: value}, Upstream)
