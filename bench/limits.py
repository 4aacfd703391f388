"""Limits shared by Redis beside limits of one gateway alone: `python bench/limits.py`.

The claim: a request takes no longer, since it never waits for the store. So both are the same data
plane with the same tokens and tenants, at a rate that leaves it room; what may differ is the
latency, and the CPU time that the exchanges take. Cores and rounds are as in `gateway.py`. Beside
them the same with strict limits, where each request does wait: what the sum being exact costs.

A latency of the whole way shows above all what else the machine does. So the limiter's own part is
measured by itself as well (`crates/policy/examples/limiter.rs`): what else runs hardly touches it.
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cyclopts
import gateway
import gateway_proxies as proxies
from gateway_load import CONNECTIONS, Wrk

from counterfoil.engines import RunningEngine, start

TENANTS: Final = 1_000
REQUESTS_PER_SECOND: Final = 5_000
PAUSE_MS: Final = CONNECTIONS * 1_000 // REQUESTS_PER_SECOND
MORE_US: Final = 1_000
"""What sharing may add to the 99th percentile."""
LOCAL: Final = "local"
STRICT: Final = "strict"


def shared(setup: proxies.Setup) -> proxies.Server:
    """The data plane with shared limits."""
    return proxies.counterfoil(setup)


def local(setup: proxies.Setup) -> proxies.Server:
    """The data plane with limits of its own."""
    server = proxies.counterfoil(dataclasses.replace(setup, shared_limits=""))
    server.name = LOCAL
    return server


def strict(setup: proxies.Setup) -> proxies.Server:
    """The data plane with shared limits, asking about each request."""
    return proxies.counterfoil(dataclasses.replace(setup, strict=True), STRICT)


CASE: Final = gateway.Case("limit at 5,000/s", (shared, local, strict), {LOCAL: 1.1}, tokens=True)


def keys(redis: RunningEngine) -> int:
    """How many keys the store has."""
    port = redis.address.removesuffix("/0").rpartition(":")[2]
    environment = {**os.environ, "REDISCLI_AUTH": redis.secret}
    command = ["redis-cli", "-p", port, "dbsize"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@contextlib.contextmanager
def redis_and_upstream(jwks: dict[str, Any]) -> Iterator[tuple[RunningEngine, proxies.Setup]]:
    """What both stand on."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        redis = stack.enter_context(start("redis", folder / "redis"))
        os.environ["REDIS_PASSWORD"] = redis.secret
        upstream = proxies.upstream(folder, jwks)
        stack.callback(upstream.stop)
        upstream.wait_until_right()
        yield redis, proxies.Setup(folder, upstream.address, jwks, shared_limits=redis.address)


def limiter(rounds: int, under: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry for each percentile of the time that one decision takes, in nanoseconds."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "counterfoil-policy"]
    command += ["--example", "limiter", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=proxies.HERE)
    if done.returncode:
        raise proxies.BenchError(f"the limiter could not be measured: {done.stderr}")
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    found = []
    for metric in measured[0]:
        raw = [one[metric] for one in measured]
        ours, peer = (statistics.median(one[name] for one in raw) for name in (gateway.OURS, LOCAL))
        entry = {
            "name": f"the limiter's part of a request: {metric}",
            "unit": metric,
            "ours": ours,
            "peers": {LOCAL: peer},
            "ratio": {LOCAL: round(ours / peer, 3)},
        }
        found.append(entry | {"rounds": raw, "conditions": under})
    found[-1]["target"] = {"peer": LOCAL, "more_at_most": MORE_US * 1_000}
    return found


def conditions(rounds: int, seconds: int) -> dict[str, Any]:
    """Under which the figures hold."""
    return {
        "versions": {
            "counterfoil": version("counterfoil"),
            "redis": subprocess.run(
                ["redis-server", "--version"], capture_output=True, text=True, check=True
            ).stdout.split()[2],
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "cores": {"proxy": proxies.PROXY_CORE, "load, upstream and Redis": proxies.LOAD_CORE},
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "connections": CONNECTIONS,
        "tenants": TENANTS,
        "seconds": seconds,
        "rounds": rounds,
        "load": f"wrk, each connection rests {PAUSE_MS} ms on average before a request",
        "limit": "1,000,000 a second for each tenant: never used up, always counted",
    }


def main(
    *,
    rounds: gateway.Positive = 11,
    seconds: gateway.Positive = 3,
    json_out: Path = proxies.HERE / "results" / "limits.json",
) -> int:
    """Compare shared with local limits: latency and CPU per request at 5,000 requests a second.

    Parameters
    ----------
    rounds
        How often each is measured.
    seconds
        How long one measurement takes.
    json_out
        Where the result document goes.
    """
    lacking = [
        f"{program} is missing: apt-get install {package}"
        for program, package in (
            ("nginx", "nginx"),
            ("wrk", "wrk"),
            ("taskset", "util-linux"),
            ("redis-server", "redis-server"),
        )
        if shutil.which(program) is None
    ]
    if lacking or (os.cpu_count() or 1) < 2:
        gateway.console.print(*lacking or ["two cores are needed"], sep="\n", markup=False)
        return 2
    os.sched_setaffinity(0, {proxies.LOAD_CORE})
    under = conditions(rounds, seconds)
    issuer = gateway.Issuer()
    tokens = [issuer.token(number, TENANTS) for number in range(TENANTS)]
    with (
        redis_and_upstream(issuer.jwks) as (redis, setup),
        gateway.running(CASE, setup, tokens[0]) as servers,
    ):
        deadline = time.monotonic() + 10
        while not keys(redis):
            if time.monotonic() > deadline:
                raise proxies.BenchError("nothing of the shared limit is in Redis")
            time.sleep(0.05)
        load = Wrk(setup.folder, tokens, PAUSE_MS)
        measured = gateway.measure(CASE, servers, load, rounds, seconds)
    found = gateway.entries(CASE, measured, under)
    gateway.console.print(gateway.table(found))
    for entry in found:
        entry.pop("targets", None)
        if entry["unit"] == "p99 us":
            entry["target"] = {"peer": LOCAL, "more_at_most": MORE_US}
    alone = limiter(rounds, under)
    for entry in alone:
        gateway.console.print(f"{entry['name']}: {entry['ours']:,.0f}, local {entry['peers']}")
    found += alone
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"cases": found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
