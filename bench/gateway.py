"""The gateway beside nginx, HAProxy and Envoy, one core each: `python bench/gateway.py`.

What counts is the CPU time per request: unlike throughput it hardly depends on what else the
machine does. Proxies run on one core, the load generator and the upstream on another; within a
round every proxy is measured once, and each round starts with another one.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import cyclopts
import gateway_proxies as proxies
from cyclopts import Parameter, validators
from gateway_load import Http2Load, Http3Load, Load, Measured, Wrk
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

TENANTS: Final = 40
TOKENS_PER_TENANT: Final = 10
WARM_UP_SECONDS: Final = 2
IDLE_SECONDS: Final = 1.0
COST: Final = "cpu_us_per_request"
METRICS: Final = {
    COST: "CPU us/request",
    "kernel_us_per_request": "kernel us/request",
    "requests_per_second": "requests/s",
    "p50_us": "p50 us",
    "p99_us": "p99 us",
}
OURS: Final = "counterfoil"
console = Console()


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of work, who does it, and what share of whose figure ours may be."""

    name: str
    start: tuple[Callable[[proxies.Setup], proxies.Server], ...]
    targets: dict[str, float]
    tokens: bool = False
    protocol: Literal["http/1.1", "http2", "http3"] = "http/1.1"


CASES: Final = {
    each.name: each
    for each in (
        Case(
            "bare",
            (proxies.counterfoil, proxies.nginx, proxies.haproxy, proxies.envoy),
            {"nginx": 0.85, "haproxy": 0.85, "envoy": 0.28},
        ),
        Case(
            "policies",
            (proxies.counterfoil, proxies.counterfoil_bare, proxies.envoy),
            {proxies.BARE: 1.4, "envoy": 0.4},
            tokens=True,
        ),
        Case(
            "http2",
            (proxies.counterfoil, proxies.nginx, proxies.haproxy, proxies.envoy),
            {"envoy": 0.5},
            protocol="http2",
        ),
        Case(
            "http3",
            (proxies.counterfoil, proxies.envoy),
            {"envoy": 0.8},
            protocol="http3",
        ),
    )
}
Rounds = list[dict[str, Measured]]


class Issuer:
    """Signs tokens (ES256 and RS256 in turn), and tells the keys that check them."""

    def __init__(self) -> None:
        self._keys = (
            ("ES256", ECKey.generate_key("P-256", {"kid": "bench-ec"}, private=True)),
            ("RS256", RSAKey.generate_key(2048, {"kid": "bench-rsa"}, private=True)),
        )
        self.jwks: dict[str, Any] = {
            "keys": [
                {**key.as_dict(private=False), "kid": key.kid, "alg": algorithm}
                for algorithm, key in self._keys
            ]
        }

    def token(self, number: int, tenants: int = TENANTS) -> str:
        """The token with this number; tenants and algorithms take turns."""
        claims = {
            "iss": proxies.ISSUER,
            "aud": proxies.AUDIENCE,
            "sub": f"client-{number}",
            "tenant": f"tenant-{number % tenants}",
            "tier": ("gold", "bronze")[number // 2 % 2],
            "exp": int(time.time()) + 86_400,
        }
        algorithm, key = self._keys[number % len(self._keys)]
        return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key)


@contextlib.contextmanager
def running(case: Case, setup: proxies.Setup, good: str) -> Iterator[list[proxies.Server]]:
    """The proxies of a case, checked: the right body for a good request, 401 for a bad token."""
    with contextlib.ExitStack() as stack:
        servers = []
        for start in case.start:
            server = start(setup)
            stack.callback(server.stop)
            servers.append(server)
        for server in servers:
            server.wait_until_right(good)
            checks_tokens = good and server.name != proxies.BARE
            for bad in ("", Issuer().token(0), good[:-8] + "AAAAAAAA") if checks_tokens else ():
                status, _ = server.status(token=bad)
                if status != 401:
                    raise proxies.BenchError(f"{server.name} answers a bad token with {status}")
        yield servers


def load_of(case: Case, folder: Path, tokens: list[str]) -> Load:
    """Who sends the requests."""
    match case.protocol:
        case "http/1.1":
            return Wrk(folder, tokens)
        case "http2":
            return Http2Load(folder)
        case "http3":
            return Http3Load(folder)


def measure(
    case: Case, servers: list[proxies.Server], load: Load, rounds: int, seconds: int
) -> Rounds:
    """Warm up each proxy and measure it, in every round, each round in another order."""
    measured: Rounds = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, refresh_per_second=1
    ) as progress:
        task = progress.add_task(case.name, total=rounds * len(servers))
        for number in range(rounds):
            start = number % len(servers)
            this: dict[str, Measured] = {}
            for server in servers[start:] + servers[:start]:
                progress.update(task, description=f"{case.name}: {server.name}")
                at = (server.name, server.address, server.process.pid)
                load.run(*at, WARM_UP_SECONDS)
                time.sleep(IDLE_SECONDS)
                this[server.name] = load.run(*at, seconds)
                progress.advance(task)
            measured.append(this)
    return measured


def entries(case: Case, rounds: Rounds, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry of the result document for each metric: medians, and ours divided by the peer's."""
    found = []
    for metric, unit in METRICS.items():
        raw = [{name: round(getattr(m, metric), 3) for name, m in one.items()} for one in rounds]
        medians = {name: statistics.median(one[name] for one in raw) for name in raw[0]}
        ours = medians.pop(OURS)
        entry = {
            "name": case.name if metric == COST else f"{case.name}: {unit}",
            "unit": unit,
            "ours": ours,
            "peers": medians,
            "ratio": {peer: round(ours / figure, 3) for peer, figure in medians.items()},
        }
        if metric == COST:
            entry["targets"] = case.targets
        found.append(entry | {"rounds": raw, "conditions": conditions})
    return found


def versions() -> dict[str, str]:
    """What ran."""

    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        numbers = re.search(r"(?<=[/ ])\d+\.\d+\.\d+", done.stdout + done.stderr)
        return numbers.group() if numbers else "unknown"

    return {
        "counterfoil": version("counterfoil"),
        "nginx": said("nginx", "-v"),
        "haproxy": said("haproxy", "-v"),
        "envoy": said(proxies.envoy_binary(), "--version"),
        "wrk": said("wrk", "-v"),
        "h2load": said("h2load", "--version"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def table(found: list[dict[str, Any]]) -> Table:
    """The medians and ratios, for people."""
    drawn = Table("case", "ours", "peer", "its figure", "ours / peer", "target")
    for column in drawn.columns[1:]:
        column.justify = "right"
    for entry in found:
        targets = entry.get("targets", {})
        for peer, figure in entry["peers"].items():
            wanted = f"<= {targets[peer]}" if peer in targets else ""
            ratio = f"{entry['ratio'][peer]:.2f}"
            drawn.add_row(
                entry["name"], f"{entry['ours']:,.1f}", peer, f"{figure:,.1f}", ratio, wanted
            )
    return drawn


Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def main(
    *,
    rounds: Positive = 11,
    seconds: Positive = 2,
    json_out: Path = proxies.HERE / "results" / "gateway.json",
    case: Annotated[
        tuple[Literal["bare", "policies", "http2", "http3"], ...],
        Parameter(name=("--case", "--cases")),
    ] = (),
    access_log: bool = False,
) -> int:
    """Compare the gateway with nginx, HAProxy and Envoy: CPU per request, throughput and latency.

    Parameters
    ----------
    rounds
        How often each proxy is measured.
    seconds
        How long one measurement takes.
    json_out
        Where the result document goes.
    case
        Only these cases; the others' figures stay in the document as they are.
    access_log
        Let nginx, Envoy and ours write a JSON line for each request: the peers through their
        buffers, ours unbuffered, as is its promise.
    """
    lacking = proxies.missing_programs()
    if (os.cpu_count() or 1) < 2:
        lacking.append("two cores are needed: one for the proxies, one for the load")
    if lacking:
        console.print(*lacking, sep="\n", markup=False, soft_wrap=True)
        return 2
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does, end what was started
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    os.sched_setaffinity(0, {proxies.LOAD_CORE})
    conditions: dict[str, Any] = {
        "versions": versions(),
        "cores": {"proxy": proxies.PROXY_CORE, "load and upstream": proxies.LOAD_CORE},
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "seconds": seconds,
        "rounds": rounds,
        "warm_up_seconds": WARM_UP_SECONDS,
        "idle_seconds": IDLE_SECONDS,
        "payload": f"GET /x without a body, answered with {len(proxies.BODY)} bytes of JSON",
        "access_log": "JSON lines" if access_log else "off for all",
        "load": "closed loop: the proxy's core is saturated, so latencies are those at full "
        "load, and comparable only with each other",
        "settings": proxies.SETTINGS,
    }
    issuer, found = Issuer(), []
    try:
        for each in [CASES[name] for name in case] if case else CASES.values():
            tokens = [issuer.token(n) for n in range(TENANTS * TOKENS_PER_TENANT)]
            tokens = tokens if each.tokens else []
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
                upstream = proxies.upstream(folder, issuer.jwks)
                stack.callback(upstream.stop)
                upstream.wait_until_right()
                setup = proxies.Setup(
                    folder,
                    upstream.address,
                    jwks=issuer.jwks if tokens else None,
                    access_log=access_log,
                    tls=proxies.certificate(folder) if each.protocol != "http/1.1" else None,
                    authority=proxies.authority(folder) if each.protocol == "http3" else None,
                )
                good = tokens[0] if tokens else ""
                servers = stack.enter_context(running(each, setup, good))
                load = load_of(each, folder, tokens)
                measured = measure(each, servers, load, rounds, seconds)
            tls = "off for all" if each.protocol == "http/1.1" else "1.3, ECDSA P-256"
            more = {"tls": tls, **load.conditions}
            if tokens:
                more |= {"tokens": len(tokens), "tenants": TENANTS, "algorithms": "ES256, RS256"}
            found += entries(each, measured, conditions | more)
    except proxies.BenchError as error:
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    if case and json_out.exists():  # what was not measured anew stays
        cases = json.loads(json_out.read_text())["cases"]
        found = [*found, *(old for old in cases if old["name"].partition(":")[0] not in case)]
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"cases": found}, indent=2) + "\n")
    console.print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
