"""The gateway under pressure: slow readers, reloads under load, hostile neighbours.

`python bench/gateway_pressure.py`. Everything is on loopback and bounded. What others notice is
the p99 of a client (wrk) that pauses between requests, so that no core is full of it: it is
measured in turns without the pressure and with it, since machines change their speed, and the
medians are compared. Memory is the gateway's alone: clients are other processes.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
import gateway_proxies as proxies
from cyclopts import Parameter, validators
from gateway import versions
from gateway_attackers import ATTACKS
from gateway_load import Wrk
from gateway_memory import resident, trusting
from rich.console import Console
from rich.table import Table

READERS: Final = 100
LARGE_BYTES: Final = 1024**3
TRICKLE: Final = 4096
"""Bytes that a slow reader takes at a time, ten times a second."""
READING_SECONDS: Final = 10.0
PER_READER: Final = 64.0
"""KiB that the gateway may hold for one."""
CHANGES_A_MINUTE: Final = 200
RELOAD_TARGET: Final = 1.5
ATTACK_TARGET: Final = 2.0
PAUSE_MS: Final = 20
"""Between the requests of each of wrk's connections: some 3,000 requests a second together."""
TURNS: Final = 3
WARM_UP_SECONDS: Final = 2
console = Console()
Counts = dict[str, int]


class Attackers:
    """The process of the attackers, which gives way to whoever else wants its core."""

    def __init__(self, kind: str, address: str) -> None:
        command = ["taskset", "-c", str(proxies.LOAD_CORE), *proxies.LOWEST_PRIORITY]
        command += [sys.executable, str(proxies.HERE / "gateway_attackers.py"), kind, address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise proxies.BenchError(f"{kind}: the attack did not begin")

    def stop(self) -> Counts:
        """End them; what they did."""
        self._process.terminate()
        output, _ = self._process.communicate(timeout=30)
        counts: Counts = json.loads(output)
        return counts


@dataclasses.dataclass
class Watched:
    """The most memory that a process had while it was looked at, over what it had before."""

    process: int
    growth: int = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look ten times a second."""
        before, end = resident(self.process), threading.Event()

        def look() -> None:
            while not end.wait(0.1):
                self.growth = max(self.growth, resident(self.process) - before)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            end.set()
            looking.join()
            self.growth = max(self.growth, resident(self.process) - before)


@contextlib.contextmanager
def gateway(tls: bool = False) -> Iterator[tuple[proxies.Server, Wrk]]:
    """The gateway before an upstream, and the client whose latency counts."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        # A server each: one that is busy with attackers would keep the other's clients waiting.
        upstream, large = proxies.upstream(folder, {}), proxies.large_bodies(folder, LARGE_BYTES)
        for each in (upstream, large):
            stack.callback(each.stop)
            each.wait_until_right()
        pair = proxies.certificate(folder) if tls else None
        setup = proxies.Setup(folder, upstream.address, tls=pair, large=large.address)
        server = proxies.counterfoil(setup)
        stack.callback(server.stop)
        server.wait_until_right()
        yield server, Wrk(folder, [], PAUSE_MS)


def reader(address: str, tls: bool) -> socket.socket:
    """A client that has asked for the large body, and has its head."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.settimeout(20)
    host, _, port = address.partition(":")
    client.connect((host, int(port)))
    if tls:
        client = trusting().wrap_socket(client)
    client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        if not (part := client.recv(TRICKLE)):
            raise proxies.BenchError("a slow reader was cut off before its answer began")
        head += part
    if not head.startswith(b"HTTP/1.1 200") or b"content-length: %d" % LARGE_BYTES not in head:
        raise proxies.BenchError(f"a slow reader is answered with {head[:200]!r}")
    client.setblocking(False)
    return client


def trickle(readers: list[socket.socket], seconds: float) -> int:
    """Take a little from each, again and again; the bytes that were taken of all."""
    taken, until = 0, time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        while time.monotonic() < until:
            for each in readers:
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    part = each.recv(TRICKLE)
                    if not part:
                        raise proxies.BenchError("a slow reader was cut off")
                    taken += len(part)
            selector.select(0.1)
    return taken


def slow_readers(tls: bool) -> dict[str, Any]:
    """What each of a hundred slow readers of 1 GiB costs in memory."""
    with gateway(tls) as (server, _), contextlib.ExitStack() as stack:

        def more(number: int) -> list[socket.socket]:
            return [stack.enter_context(reader(server.address, tls)) for _ in range(number)]

        trickle(more(2), 1.0)  # what is there once is no matter of how many
        watched = Watched(server.process.pid)
        with watched.watching():
            slow = more(READERS)
            taken = trickle(slow, READING_SECONDS)
    figure = round(watched.growth / READERS / 1024, 2)
    return {
        "name": f"slow readers of 1 GiB, {'TLS' if tls else 'plain'}",
        "unit": "KiB/reader",
        "ours": figure,
        "target": PER_READER,
        "taken_bytes": taken,
        "conditions": {"readers": READERS, "seconds": READING_SECONDS, "protocol": "HTTP/1.1"},
    }


def turns(
    server: proxies.Server, load: Wrk, seconds: int, pressure: Callable[[], Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The client's p99 without the pressure and under it, in turns; what the pressure tells.

    `pressure` gives a context that holds for one turn, and whose value is told at the end.
    """
    found: dict[str, list[int]] = {"without": [], "with": []}
    failed, requests, told = 0, 0, []

    def measure(name: str) -> None:
        nonlocal failed, requests
        answer = load.ask(server.address, seconds)
        found[name].append(answer["p99_us"])
        failed += answer["errors"]
        requests += answer["requests"]

    load.ask(server.address, WARM_UP_SECONDS)
    for _ in range(TURNS):
        measure("without")
        with pressure() as one:
            measure("with")
        told.append(one)
    without, under = (statistics.median(each) for each in found.values())
    return {
        "unit": "p99 us",
        "ours": under,
        "peers": {"without": without},
        "ratio": {"without": round(under / without, 3)},
        "rounds": found,
        "requests": requests,
        "failed": failed,
    }, told


def reloads(seconds: int) -> dict[str, Any]:
    """What changes of the configuration cost those who ask meanwhile."""
    every = 60 / CHANGES_A_MINUTE
    each = max(seconds // TURNS, 1)
    with gateway() as (server, load):

        @contextlib.contextmanager
        def changing() -> Iterator[int]:
            end = threading.Event()

            def change() -> None:
                while not end.wait(every):
                    server.process.send_signal(signal.SIGHUP)

            changes = threading.Thread(target=change)
            changes.start()
            try:
                yield 0
            finally:
                end.set()
                changes.join()
                time.sleep(every)  # the last one is through

        entry, _ = turns(server, load, each, changing)
        said = [json.loads(line) for line in server.said().splitlines()]
    made = [line["reload_ms"] for line in said if "reload_ms" in line]
    if len(made) < each * TURNS / every * 0.8:
        raise proxies.BenchError(f"only {len(made)} changes were made: is the machine overloaded?")
    return entry | {
        "name": "reloads",
        "target": {"without": RELOAD_TARGET, "failed": 0},
        "changes": len(made),
        "change_ms": {"median": statistics.median(made), "most": max(made)},
        "conditions": {"changes": f"one every {every:g} s", "seconds": each * TURNS},
    }


def neighbours(kind: str, seconds: int) -> dict[str, Any]:
    """What an attack costs others, and the gateway in memory."""
    with gateway() as (server, load):
        watched = Watched(server.process.pid)

        @contextlib.contextmanager
        def attacked() -> Iterator[Counts]:
            with watched.watching():
                attackers, counts = Attackers(kind, server.address), Counts()
                try:
                    yield counts
                finally:
                    counts |= attackers.stop()

        entry, told = turns(server, load, seconds, attacked)
    if not all(sum(counts.values()) > counts.get("refused", 0) for counts in told):
        raise proxies.BenchError(f"{kind}: the attackers did nothing: {told}")
    return entry | {
        "name": f"neighbours of {kind}",
        "target": {"without": ATTACK_TARGET, "failed": 0},
        "memory_growth_mib": round(watched.growth / 1024**2, 1),
        "attackers": told,
        "conditions": {"connections of attackers": ATTACKS[kind][0], "seconds": seconds},
    }


def table(found: list[dict[str, Any]]) -> Table:
    """For people."""
    drawn = Table("case", "figure", "without", "ratio", "failed", "memory")
    for entry in found:
        without = entry.get("peers", {}).get("without")
        drawn.add_row(
            entry["name"],
            f"{entry['ours']:,.1f} {entry['unit']}",
            f"{without:,.0f}" if without else "",
            f"{entry['ratio']['without']:.2f}" if without else "",
            f"{entry['failed']} of {entry['requests']}" if "failed" in entry else "",
            f"{entry['memory_growth_mib']} MiB" if "memory_growth_mib" in entry else "",
        )
    return drawn


def main(
    *,
    seconds: Annotated[int, Parameter(validator=validators.Number(gte=3, lte=600))] = 60,
    json_out: Path = proxies.HERE / "results" / "gateway-pressure.json",
) -> int:
    """Put the gateway under pressure and see who notices.

    Parameters
    ----------
    seconds
        How long the configuration is changed; an attack takes a twelfth of it, three times.
    json_out
        Where the result document goes.
    """
    if lacking := proxies.missing_programs():
        console.print(*lacking, sep="\n", markup=False, soft_wrap=True)
        return 2
    os.sched_setaffinity(0, {proxies.LOAD_CORE})
    conditions = {
        "versions": versions(),
        "cores": {"gateway": proxies.PROXY_CORE, "all else": proxies.LOAD_CORE},
        "load_average_before": os.getloadavg()[0],
        "client": f"wrk, 64 connections, each pauses for {PAUSE_MS} ms before a request",
        "attackers": "a process at the lowest priority, on the client's core, and so is the server "
        "of what they ask for",
        "services": "/x, /large and /upload are services of their own, with the default bounds; "
        "a server for /x, another for the other two",
        "memory": "resident, of the gateway's process, without the kernel's buffers",
    }
    try:
        found = [slow_readers(tls) for tls in (False, True)]
        found.append(reloads(seconds))
        found += [neighbours(kind, max(seconds // 12, 1)) for kind in ATTACKS]
    except proxies.BenchError as error:
        console.print(str(error), markup=False)
        return 1
    for entry in found:
        entry["conditions"] |= conditions
    json_out.write_text(json.dumps({"cases": found}, indent=2) + "\n")
    console.print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
