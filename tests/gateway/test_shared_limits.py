"""Limits over several real data planes and one real Redis, also while it is broken in each way."""

import http.client
import json
import statistics
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sharing import gateways, load, redis_cli, until

from counterfoil.engines import RunningEngine, free_port
from counterfoil.gateway.config import GatewayConfig, Limit
from counterfoil.gateway.tls import development_certificate


def test_three_gateways_together_stay_within_the_bound_and_at_the_rate(
    service: str, redis: RunningEngine
) -> None:
    rate, burst = 100, 50
    with gateways(3, service, redis, rate=rate, burst=burst) as nodes:
        until(lambda: all(node.link["connected"] for node in nodes))

        def admitted() -> int:
            return sum(node.allowed for node in nodes)

        def lent() -> float:
            slowest = max(node.link["slowest_exchange_seconds"] for node in nodes)
            return len(nodes) * rate * (0.05 + 3 * slowest)

        started = time.monotonic()

        def due() -> float:
            return rate * (time.monotonic() - started) + burst

        with load(nodes) as statuses:
            until(lambda: admitted() > 2.5 * burst)
            assert admitted() <= due() + 2 * burst + lent()
            until(lambda: admitted() <= due() + lent())  # what was borrowed is repaid
            middle, before = time.monotonic(), admitted()
            until(lambda: admitted() > before + 3 * rate)
            ended, after = time.monotonic(), admitted()
            assert after <= due() + 2 * burst + lent()
        assert set(statuses) == {200, 429}
        assert all(node.link["failures"] == 0 for node in nodes)
        assert abs(after - before - rate * (ended - middle)) <= burst + 2 * lent()


def test_what_one_gateway_admitted_is_refused_by_another(
    service: str, redis: RunningEngine
) -> None:
    with gateways(2, service, redis, rate=0.01, burst=20) as (one, other):
        until(lambda: one.link["connected"] and other.link["connected"])
        assert one.statuses(21) == [200] * 20 + [429]
        until(lambda: one.link["waiting"] == 0)
        until(lambda: other.get().status == 429)
        assert other.allowed < 20


BREAKS: dict[str, tuple[Callable[[RunningEngine], object], Callable[[RunningEngine], object]]] = {
    "killed, and back empty": (RunningEngine.kill, RunningEngine.start),
    "paused": (RunningEngine.pause, RunningEngine.resume),
    "out of memory": (
        lambda redis: redis_cli(redis, "config", "set", "maxmemory", "1"),
        lambda redis: redis_cli(redis, "config", "set", "maxmemory", "64mb"),
    ),
    "with another password": (
        lambda redis: (
            redis_cli(redis, "config", "set", "requirepass", "another"),
            redis_cli(redis, "client", "kill", "type", "normal", secret="another"),
        ),
        lambda redis: redis_cli(
            redis, "config", "set", "requirepass", redis.secret, secret="another"
        ),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_store_leaves_each_gateway_a_limit_of_its_own_and_is_told_afterwards(
    service: str, redis: RunningEngine, broken: str
) -> None:
    application = uuid.uuid4().hex
    take_away, bring_back = BREAKS[broken]
    with gateways(2, service, redis, rate=0.01, burst=50, application=application) as nodes:
        until(lambda: all(node.link["connected"] for node in nodes))
        take_away(redis)
        try:
            took: list[float] = []
            for node in nodes:
                statuses: Counter[int] = Counter()
                for _ in range(60):
                    began = time.monotonic()
                    statuses[node.get().status] += 1
                    took.append(time.monotonic() - began)
                assert statuses == {200: 50, 429: 10}
            # An exchange is given up after half a second: no request has waited for one.
            assert statistics.median(took) < 0.1
            until(lambda: all(not node.link["connected"] for node in nodes))
            assert all(node.link["trouble"]["hint"] for node in nodes)
        finally:
            bring_back(redis)
        until(lambda: all(node.link["connected"] and node.link["waiting"] == 0 for node in nodes))
        assert all(node.link["trouble"] is None for node in nodes)
        assert all(redis.secret not in json.dumps(node.plane.state()) for node in nodes)
        # Both bursts, at 100 seconds a request.
        key = f"counterfoil:{application}:limit:all:127.0.0.1"
        assert int(redis_cli(redis, "pttl", key)) > 2 * 49 * 100_000
        clients = redis_cli(redis, "client", "list", "type", "normal").splitlines()
        assert len([client for client in clients if "cmd=client" not in client]) == len(nodes)


def test_a_store_that_dies_and_comes_back_under_load_costs_no_request(
    service: str, redis: RunningEngine
) -> None:
    with gateways(2, service, redis, rate=200, burst=20) as nodes, load(nodes) as statuses:
        for _ in range(2):
            until(lambda: all(node.link["connected"] for node in nodes))
            redis.kill()
            try:
                until(lambda: not any(node.link["connected"] for node in nodes))
                sent = len(statuses)
                until(lambda sent=sent: len(statuses) > sent + 200)
            finally:
                redis.start()
        until(lambda: all(node.link["connected"] for node in nodes))
    assert set(statuses) == {200, 429}


def test_a_limit_that_fails_closed_answers_503_while_the_store_is_away(
    service: str, redis: RunningEngine
) -> None:
    with gateways(1, service, redis, rate=1e6, burst=1_000, fallback="refuse") as (node,):
        until(lambda: node.get().status == 200)
        redis.kill()
        try:
            until(lambda: node.get().status != 200)
            refused = node.get()
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        finally:
            redis.start()
        until(lambda: node.get().status == 200)


def test_a_store_that_comes_up_later_is_found(service: str, redis: RunningEngine) -> None:
    redis.kill()
    try:
        with gateways(1, service, redis, rate=0.01, burst=1) as (node,):
            until(lambda: node.link["failures"] > 1)
            assert node.get().status == 200
            redis.start()
            until(lambda: node.link["connected"] and node.link["waiting"] == 0)
    finally:
        redis.stop()
        redis.start()


def test_a_wrong_password_is_named_with_its_remedy_and_told_to_nobody(
    service: str, redis: RunningEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    with gateways(1, service, redis, rate=0.01, burst=1, password="not-the-one") as (node,):
        until(lambda: node.link["trouble"])
        assert "REDIS_PASSWORD" in node.link["trouble"]["hint"]
        assert node.get().status == 200
        state = json.dumps(node.plane.state())
    logged = capfd.readouterr().err
    assert "REDIS_PASSWORD" in logged
    assert "not-the-one" not in state + logged


def test_a_store_is_asked_by_tls_if_its_certificate_is_trusted(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate, key = development_certificate(tmp_path, datetime.now(UTC))
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", "0", "--save", ""]
    command += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    command += ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    address = f"rediss://localhost:{port}/0"
    try:
        with gateways(1, service, address, rate=1, burst=1) as (node,):
            until(lambda: "certificate" in (node.link["trouble"] or {"error": ""})["error"])
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        with gateways(1, service, address, rate=1, burst=1) as (node,):
            until(lambda: node.link["connected"])
    finally:
        process.kill()
        process.wait()


def test_a_store_that_may_evict_keys_is_used_with_a_warning(
    service: str, redis: RunningEngine
) -> None:
    redis_cli(redis, "config", "set", "maxmemory-policy", "allkeys-lru")
    try:
        with gateways(1, service, redis, rate=0.01, burst=1) as (node,):
            until(lambda: node.link["connected"])
            until(lambda: node.link["trouble"])
            assert "noeviction" in node.link["trouble"]["hint"]
    finally:
        redis_cli(redis, "config", "set", "maxmemory-policy", "noeviction")


def test_operators_see_how_it_goes_with_the_store(service: str, redis: RunningEngine) -> None:
    with gateways(1, service, redis, rate=100, burst=10) as (node,):
        until(lambda: node.link["connected"])
        connection = http.client.HTTPConnection(node.plane.admin, timeout=20)
        connection.request("GET", "/metrics", headers={"authorization": "Bearer c"})
        text = connection.getresponse().read().decode()
        assert "counterfoil_gateway_shared_limits_connected 1\n" in text
        assert node.link["last_exchange_seconds"] < 60


def test_no_two_limits_can_share_a_count_in_the_store() -> None:
    slow = Limit(key="tenant", rate=1.0, burst=1)
    with pytest.raises(ValueError, match="no colon"):
        GatewayConfig(tls="off", limits={"a": slow, "a:b": slow})
