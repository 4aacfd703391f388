"""Coordination on both engines, and beside etcd's own JSON gateway: `python bench/coordination.py`.

The JSON gateway over one kept connection of `http.client` is what Python can have without a native
client. One process asks, one call after the other; within a round every engine is measured once,
and each round starts with another one. All of it shares the machine's cores and its disk, so the
figures are comparable only with each other.
"""

import base64
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

import cyclopts
from rich.console import Console
from rich.table import Table

from counterfoil.coordination import EmbeddedClient, EtcdClient, Unavailable
from counterfoil.coordination.server import application
from counterfoil.engines import free_port, start
from counterfoil.engines.etcd import VERSION

RESULT: Final = Path(__file__).parent / "results" / "coordination.json"
CREDENTIAL: Final = "for-this-bench-alone"
VALUE: Final = "v" * 256
OURS: Final = "counterfoil on etcd"


class Asked(Protocol):
    """What is measured of every engine."""

    def put(self, key: str, value: str) -> object: ...
    def range(self, prefix: str) -> object: ...


class JsonGateway:
    """The same two questions, as etcd's JSON gateway wants them."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"))

    def put(self, key: str, value: str) -> object:
        request = {"key": _base64(key), "value": _base64(value)}
        read = {"requestRange": {"key": _base64(key)}}
        return self._ask("txn", {"success": [{"requestPut": request}, read]})

    def range(self, prefix: str) -> object:
        return self._ask("range", {"key": _base64(prefix), "range_end": _base64(prefix + "\xff")})

    def _ask(self, verb: str, question: object) -> object:
        self._connection.request("POST", f"/v3/kv/{verb}", json.dumps(question))
        return json.loads(self._connection.getresponse().read())


def main(*, rounds: int = 7, calls: int = 300, json_out: Path = RESULT) -> int:
    """Measure put, range and the time until a watch has seen a put.

    Parameters
    ----------
    rounds
        How often each engine is measured.
    calls
        Calls of each kind in one measurement.
    json_out
        Where the result document goes.
    """
    conditions = {
        "etcd": VERSION,
        "counterfoil": version("counterfoil"),
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "rounds": rounds,
        "calls": calls,
        "value": f"{len(VALUE)} bytes",
        "durability": "each put is synced to disk before its answer, on both engines",
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        etcd = stack.enter_context(start("etcd", folder / "etcd"))
        node = stack.enter_context(embedded(folder / "node.db"))
        engines: dict[str, Asked] = {
            OURS: EtcdClient(etcd.address, "bench"),
            "counterfoil embedded": EmbeddedClient(node, CREDENTIAL),
            "etcd's JSON gateway": JsonGateway(etcd.address),
        }
        found: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds):
            names = [*engines][number % len(engines) :] + [*engines][: number % len(engines)]
            for name in names:
                for case, took in measure(engines[name], calls).items():
                    found.setdefault(case, {}).setdefault(name, []).extend(took)
    cases = [entry(name, took, conditions) for name, took in found.items()]
    json_out.write_text(json.dumps({"cases": cases}, indent=2) + "\n")
    Console().print(table(cases))
    return 0


def measure(engine: Asked, calls: int) -> dict[str, list[float]]:
    """Milliseconds of each call."""
    key = f"/bench/{uuid.uuid4().hex}"
    found = {
        "put": timed(lambda: engine.put(key, VALUE), calls),
        "range of one key": timed(lambda: engine.range(key), calls),
    }
    if isinstance(engine, EmbeddedClient | EtcdClient):
        found["put until a watch has seen it"] = seen(engine, calls)
    return found


def timed(call: Callable[[], object], calls: int) -> list[float]:
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1000)
    return took


def seen(engine: EmbeddedClient | EtcdClient, calls: int) -> list[float]:
    key = f"/watched/{uuid.uuid4().hex}"
    stop, arrived, last = threading.Event(), threading.Semaphore(0), str(calls - 1)

    def follow() -> None:
        for snapshot in engine.watch(key, stop):
            arrived.release()
            if snapshot and snapshot[0].value == last:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    arrived.acquire()
    numbers = iter(range(calls))

    def put() -> None:
        engine.put(key, str(next(numbers)))
        arrived.acquire()

    took = timed(put, calls)
    follower.join()
    return took


@contextmanager
def embedded(path: Path) -> Iterator[str]:
    """The embedded node in a process of its own, as the supervisor runs it."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(path, port))
    process.start()
    client = EmbeddedClient(f"http://127.0.0.1:{port}", CREDENTIAL)
    while True:
        try:
            client.range("/")
            break
        except Unavailable:
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.join()


def serve(path: Path, port: int) -> None:
    import uvloop
    from granian.constants import Interfaces
    from granian.server.embed import Server

    asgi = application(path, CREDENTIAL)
    server = Server(asgi, "127.0.0.1", port, interface=Interfaces.ASGI, log_enabled=False)
    uvloop.run(server.serve())


def entry(name: str, took: dict[str, list[float]], conditions: dict[str, Any]) -> dict[str, Any]:
    """An entry of the result document: medians, with the 99th percentiles beside."""
    medians = {engine: round(statistics.median(each), 3) for engine, each in took.items()}
    ours = medians.pop(OURS)
    return {
        "name": f"coordination, {name}: p50",
        "unit": "ms",
        "ours": ours,
        "peers": medians,
        "ratio": {peer: round(ours / figure, 3) for peer, figure in medians.items()},
        "p99": {
            engine: round(statistics.quantiles(each, n=100)[98], 3) for engine, each in took.items()
        },
        "conditions": conditions,
    }


def table(cases: list[dict[str, Any]]) -> Table:
    found = Table("case", OURS, "peers", "p99")
    for case in cases:
        peers = ", ".join(f"{name} {figure}" for name, figure in case["peers"].items())
        p99 = ", ".join(f"{name} {figure}" for name, figure in case["p99"].items())
        found.add_row(f"{case['name']} {case['unit']}", str(case["ours"]), peers, p99)
    return found


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("latin-1")).decode()


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
