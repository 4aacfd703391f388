"""Who gets a place at a service that has not enough of them: bounds, the queue, tiers, tenants."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey
from sharing import until
from upstream import Asked, Server, gateway, serving, sized

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

KEY = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)


def headers(tier: str, tenant: str = "t1", **more: str) -> dict[str, str]:
    expires = int(time.time()) + 600
    claims = {"iss": "me", "aud": "a", "tenant": tenant, "tier": tier, "exp": expires, **more}
    token = jwt.encode({"alg": "ES256", "kid": "k1"}, claims, KEY, algorithms=["ES256"])
    return {"authorization": f"Bearer {token}"}


class Slow:
    """A service that answers when it is told to, and the keys of an issuer at once."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        self.under_way = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked, connection: socket.socket) -> None:
        if asked.line.startswith("GET /jwks"):
            keys = {"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}
            connection.sendall(sized(json.dumps(keys).encode()))
            return
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.go_on.acquire(timeout=20)
        with self._lock:
            self.under_way -= 1
        connection.sendall(sized(asked.headers.get("x-counterfoil-tier", "").encode()))


@contextmanager
def tiered(
    slow: Slow, limits: dict[str, Limit] | None = None, **protection: object
) -> Generator[tuple[DataPlane, Server], None, None]:
    """A gateway of a slow service, for whoever has a token."""
    with serving(slow) as server:
        issuer = f"http://{server.address}/jwks"
        plane = DataPlane(
            GatewayConfig(
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                tls="off",
                identity=Identity(issuer="me", audience="a", jwks_url=issuer),
                limits=limits or {},
                routes=(
                    Route(path="/x", methods=("GET",), service="s", limits=tuple(limits or ())),
                ),
                services={"s": Upstream(attempt_timeout_seconds=30.0, **protection)},  # type: ignore[arg-type]
            ),
            access_log=None,
            admin_credential="c",
        )
        plane.set_endpoints("s", [("s-1", server.address)])
        slow.go_on.release()
        until(lambda: httpx2.get(f"http://{plane.listen}/x", headers=headers("gold")).is_success)
        yield plane, server
        slow.go_on.release(1_000)
        plane.drain(5.0)


class Client(threading.Thread):
    """Asks once, in a thread of its own."""

    def __init__(self, plane: DataPlane, given: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.url, self.given = f"http://{plane.listen}/x", given
        self.answer: httpx2.Response | None = None
        self.start()

    def run(self) -> None:
        self.answer = httpx2.get(self.url, headers=self.given, timeout=30)


def service(plane: DataPlane) -> dict[str, Any]:
    return plane.state()["services"]["s"]


def metrics(plane: DataPlane) -> set[str]:
    """What is told of it, without the beginning that all names have."""
    headers = {"authorization": "Bearer c"}
    lines = httpx2.get(f"http://{plane.admin}/metrics", headers=headers).text.splitlines()
    return {line.removeprefix("counterfoil_gateway_") for line in lines}


def test_what_is_too_much_for_a_slow_service_is_refused_and_no_more_than_its_limit_is_in_it() -> (
    None
):
    slow = Slow()
    with gateway(
        slow, concurrency=3, queue=2, queue_timeout_seconds=20.0, attempt_timeout_seconds=30.0
    ) as (_, _server, plane):
        inside = [Client(plane, {}) for _ in range(5)]
        until(lambda: service(plane)["waiting"] == 2 and slow.under_way == 3)
        refused = httpx2.get(f"http://{plane.listen}/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert service(plane)["shed"] == {"all": 1}
        told = metrics(plane)
        assert 'shed_requests_total{service="s",tier="all"} 1' in told
        assert {'in_flight_limit{service="s"} 3', 'waiting{service="s"} 2'} <= told
        slow.go_on.release(5)
        for client in inside:
            client.join(20)
            assert client.answer is not None
            assert client.answer.is_success
        assert slow.most == 3
        until(lambda: service(plane)["in_flight"] == 0)


def test_a_place_goes_to_the_highest_tier_and_the_lowest_is_refused_at_once() -> None:
    slow = Slow()
    with tiered(slow, concurrency=1, queue=2, queue_timeout_seconds=20.0) as (plane, server):
        first = Client(plane, headers("bronze"))
        until(lambda: slow.under_way == 1)
        refused = httpx2.get(f"http://{plane.listen}/x", headers=headers("bronze"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["content-type"] == "application/problem+json"
        unknown = httpx2.get(f"http://{plane.listen}/x", headers=headers("platinum"))
        assert unknown.status_code == 503
        waiting = []
        for number, tier in enumerate(("silver", "silver"), start=1):
            waiting.append(Client(plane, headers(tier)))
            until(lambda number=number: service(plane)["waiting"] == number)
        gold = Client(plane, headers("gold"))
        waiting[1].join(20)  # the newest of the lowest that waits makes room
        assert waiting[1].answer is not None
        assert waiting[1].answer.status_code == 503
        before = len(server.asked)
        slow.go_on.release()
        until(lambda: len(server.asked) > before)
        assert server.asked[-1].headers["x-counterfoil-tier"] == "gold"
        slow.go_on.release(2)
        for client in (first, gold, waiting[0]):
            client.join(20)
            assert client.answer is not None
            assert client.answer.is_success
        assert service(plane)["shed"] == {"gold": 0, "silver": 1, "bronze": 2}
        name = 'shed_requests_total{service="s",tier='
        assert {f'{name}"gold"}} 0', f'{name}"silver"}} 1', f'{name}"bronze"}} 2'} <= metrics(plane)


def test_under_overload_gold_is_served_and_when_it_is_over_everybody_is() -> None:
    slow = Slow()
    done = threading.Event()
    statuses: dict[str, Counter[int]] = {"gold": Counter(), "bronze": Counter()}

    def ask(plane: DataPlane, tier: str, pause: float) -> None:
        with httpx2.Client(base_url=f"http://{plane.listen}", headers=headers(tier)) as client:
            while not done.is_set():
                statuses[tier][client.get("/x", timeout=30).status_code] += 1
                time.sleep(pause)

    def serve() -> None:  # some 100 requests a second; bronze alone asks for twice as many
        while not done.wait(0.01):
            slow.go_on.release()

    with tiered(slow, concurrency=4, queue_timeout_seconds=20.0) as (plane, _):
        threads = [threading.Thread(target=serve)]
        threads += [threading.Thread(target=ask, args=(plane, "bronze", 0.02)) for _ in range(8)]
        threads += [threading.Thread(target=ask, args=(plane, "gold", 0.0)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: statuses["gold"].total() >= 100 and statuses["bronze"][503] >= 20)
        done.set()
        slow.go_on.release(1_000)
        for thread in threads:
            thread.join(30)
        assert statuses["gold"].keys() == {200}
        after = [httpx2.get(f"http://{plane.listen}/x", headers=headers("bronze")) for _ in "12345"]
        assert all(answer.is_success for answer in after)


def test_one_tenant_leaves_places_for_others() -> None:
    slow = Slow()
    with tiered(slow, concurrency=8, tenant_concurrency=2) as (plane, _):
        greedy = [Client(plane, headers("gold", "greedy")) for _ in range(2)]
        until(lambda: slow.under_way == 2)
        refused = httpx2.get(f"http://{plane.listen}/x", headers=headers("gold", "greedy"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        modest = Client(plane, headers("bronze", "modest"))
        until(lambda: slow.under_way == 3)
        slow.go_on.release(3)
        for client in (*greedy, modest):
            client.join(20)
            assert client.answer is not None
            assert client.answer.is_success
        slow.go_on.release()
        again = httpx2.get(f"http://{plane.listen}/x", headers=headers("gold", "greedy"))
        assert again.is_success


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue() -> None:
    slow = Slow()
    with gateway(slow, concurrency=1, queue_timeout_seconds=20.0) as (_, _server, plane):
        first = Client(plane, {})
        until(lambda: slow.under_way == 1)
        host, _, port = plane.listen.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            until(lambda: service(plane)["waiting"] == 1)
        until(lambda: service(plane)["waiting"] == 0)
        slow.go_on.release(2)
        first.join(20)
        assert httpx2.get(f"http://{plane.listen}/x").is_success


def test_an_adaptive_limit_follows_what_the_service_can_do() -> None:
    places = threading.Semaphore(4)  # what it can do at once; the others wait inside

    def answer(_: Asked, connection: socket.socket) -> None:
        with places:
            time.sleep(0.05)
        connection.sendall(sized(b"abc"))

    with gateway(answer, adaptive_concurrency=True, least_concurrency=2, concurrency=64) as (
        _,
        _server,
        plane,
    ):
        done = threading.Event()

        def ask() -> None:
            with httpx2.Client(base_url=f"http://{plane.listen}") as client:
                while not done.is_set():
                    client.get("/x")

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: service(plane)["limit"] <= 16)  # it began at 20, and 24 ask
            assert service(plane)["unloaded_us"] > 0
        finally:
            done.set()
            for thread in threads:
                thread.join(30)


def test_a_limit_by_claim_counts_each_of_its_values() -> None:
    slow = Slow()
    slow.go_on.release(100)
    by_subject = {"subject": Limit(key="claim:sub", rate=0.001, burst=2)}
    with tiered(slow, by_subject) as (plane, _):

        def ask(subject: str) -> int:
            given = headers("gold", sub=subject)
            return httpx2.get(f"http://{plane.listen}/x", headers=given).status_code

        assert [ask(subject) for subject in ("a", "a", "b", "a", "b")] == [200, 200, 200, 429, 200]
