"""What idle connections hold of memory: ours beside nginx, HAProxy and Envoy, in one run.

Each proxy gets as many connections of HTTP/1.1, one after the other, each of which makes one
request and then stays. What counts is the resident memory of its processes, once they are at rest,
over what it was after one warm-up request: `python bench/gateway_memory.py`.
"""

import contextlib
import dataclasses
import functools
import http.client
import json
import os
import resource
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
import gateway_proxies as proxies
from cyclopts import Parameter, validators
from gateway import OURS, table, versions
from gateway_load import family
from rich.console import Console

REST_SECONDS: Final = 12
"""Ours gives back what a connection of HTTP/1.1 holds 5 to 10 seconds after its last request."""
PAUSE_SECONDS: Final = 0.05
"""Between two visits of others: without any, allocators see no reason to give pages back."""
STARTS: Final[tuple[Callable[[proxies.Setup], proxies.Server], ...]] = (
    proxies.counterfoil,
    proxies.nginx,
    proxies.haproxy,
    proxies.envoy,
)
TARGET: Final = 0.4
"""Of Envoy's."""
EACH_ADDRESS: Final = 2_000
"""Connections from one address: Linux has some 28,000 ports for each, which others use too."""
FILES: Final = 1_000
"""That are open beside those of the connections."""
console = Console()


def resident(process: int) -> int:
    """Bytes that a process and its descendants have in memory."""
    pages = 0
    for each in family(process):
        with contextlib.suppress(FileNotFoundError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def trusting() -> ssl.SSLContext:
    """HTTP/1.1 over TLS with whoever answers; made once, as it takes longer than a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def connection(server: proxies.Server, tls: bool, number: int = 0) -> http.client.HTTPConnection:
    """A connection that has made one request, and got the right answer.

    Connections with numbers that are far apart come from different addresses of loopback.
    """
    source = (f"127.0.0.{2 + number // EACH_ADDRESS}", 0)
    if tls:
        made: http.client.HTTPConnection = http.client.HTTPSConnection(
            server.address, timeout=20, context=trusting(), source_address=source
        )
    else:
        made = http.client.HTTPConnection(server.address, timeout=20, source_address=source)
    made.request("GET", "/x")
    answer = made.getresponse()
    if (answer.status, answer.read().decode()) != (200, proxies.BODY):
        raise proxies.BenchError(f"{server.name} answers with {answer.status}")
    return made


def kib_per_connection(server: proxies.Server, connections: int, tls: bool) -> float:
    """What each of so many idle connections holds, in KiB."""
    with contextlib.closing(connection(server, tls)):
        time.sleep(1)
        before = resident(server.process.pid)
    held = [connection(server, tls, number) for number in range(connections)]
    resting_until = time.monotonic() + REST_SECONDS
    while time.monotonic() < resting_until:  # as in life, others come and go meanwhile
        connection(server, tls).close()
        time.sleep(PAUSE_SECONDS)
    after = resident(server.process.pid)
    held[-1].request("GET", "/x")  # whoever rests still answers
    if held[-1].getresponse().status != 200:
        raise proxies.BenchError(f"{server.name} does not answer on a connection that was idle")
    for each in held:
        each.close()
    return (after - before) / connections / 1024


def measure(connections: int, tls: bool) -> dict[str, float]:
    """The figure of each proxy, each started anew."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        upstream = proxies.upstream(folder, {})
        try:
            upstream.wait_until_right()
            setup = proxies.Setup(folder, upstream.address)
            setup = dataclasses.replace(setup, tls=proxies.certificate(folder) if tls else None)
            for start in STARTS:
                server = start(setup)
                try:
                    server.wait_until_right()
                    figure = kib_per_connection(server, connections, tls)
                finally:
                    server.stop()
                console.print(f"{server.name}: {figure:.2f} KiB", markup=False)
                found[server.name] = round(figure, 2)
        finally:
            upstream.stop()
    return found


def main(
    *,
    connections: Annotated[
        int, Parameter(validator=validators.Number(gte=100, lte=proxies.CONNECTIONS - 100))
    ] = 5000,
    json_out: Path = proxies.HERE / "results" / "gateway-memory.json",
) -> int:
    """Compare the memory of idle connections, plain and over TLS.

    Parameters
    ----------
    connections
        How many there are at a time.
    json_out
        Where the result document goes.
    """
    if lacking := proxies.missing_programs():
        console.print(*lacking, sep="\n", markup=False, soft_wrap=True)
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 2 * connections + FILES:
        console.print(
            f"{2 * connections + FILES:,} open files are needed, and {most:,} allowed: raise the "
            "hard limit (ulimit -Hn), or ask for fewer --connections"
        )
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    conditions: dict[str, Any] = {
        "versions": versions(),
        "connections": connections,
        "requests_before": "one on each connection",
        "rest_seconds": REST_SECONDS,
        "meanwhile": f"another connection with one request every {PAUSE_SECONDS} s",
        "memory": "resident, of all processes of the proxy, without the kernel's buffers",
        "settings": proxies.SETTINGS,
    }
    found: list[dict[str, Any]] = []
    try:
        for tls in (False, True):
            figures = measure(connections, tls)
            ours = figures.pop(OURS)
            found.append(
                {
                    "name": f"idle connection, {'TLS 1.3' if tls else 'plain'}",
                    "unit": "KiB/connection",
                    "ours": ours,
                    "peers": figures,
                    "ratio": {peer: round(ours / figure, 3) for peer, figure in figures.items()},
                    "targets": {"envoy": TARGET},
                    "conditions": conditions,
                }
            )
    except proxies.BenchError as error:
        console.print(str(error), markup=False)
        return 1
    json_out.write_text(json.dumps({"cases": found}, indent=2) + "\n")
    console.print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
