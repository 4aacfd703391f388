"""Shedding by tier on the real gateway: `python bench/shedding.py`.

The claim: at twice what a backend can do, the highest tier keeps its success and its latency, the
lowest is refused at once, and when it is over it is over. The backend has PLACES servers and takes
SERVICE seconds for each request, whoever asks; what is too much queues in it. Requests come at
random times, as from clients who don't wait for each other.
"""

import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

PLACES = 16
SERVICE = 0.05
CAPACITY = PLACES / SERVICE
KEY = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
PHASES = {
    # Seconds, and what each tier asks for in parts of the capacity.
    "unloaded": (5.0, {"gold": 0.2}),
    "overload": (15.0, {"gold": 0.4, "silver": 0.6, "bronze": 1.0}),
    "after": (5.0, {"gold": 0.1, "silver": 0.2, "bronze": 0.2}),
}


@dataclass
class Answers:
    """What a tier got in a phase: seconds of those answered and refused."""

    good: list[float] = field(default_factory=list[float])
    refused: list[float] = field(default_factory=list[float])
    other: int = 0

    def summary(self) -> dict[str, float | int]:
        number = len(self.good) + len(self.refused) + self.other
        found: dict[str, float | int] = {
            "requests": number,
            "success": round(len(self.good) / max(number, 1), 4),
        }
        for name, seconds in (("answered", self.good), ("refused", self.refused)):
            if len(seconds) > 1:
                cuts = statistics.quantiles(seconds, n=100)
                found[f"{name}_p50_ms"] = round(cuts[49] * 1e3, 2)
                found[f"{name}_p99_ms"] = round(cuts[98] * 1e3, 2)
        return found


async def backend() -> asyncio.Server:
    """Serves PLACES requests at once, and the keys of an issuer."""
    places = asyncio.Semaphore(PLACES)
    keys = json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                content = keys
                if not head.startswith(b"GET /jwks"):
                    content = b"good"
                    async with places:
                        await asyncio.sleep(SERVICE)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


class Client:
    """Keeps connections to the gateway, and asks on whichever is free."""

    def __init__(self, address: str) -> None:
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, token: str) -> tuple[int, float]:
        """The status, and the seconds that it took."""
        began = time.perf_counter()
        if self.free:
            reader, writer = self.free.pop()
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            began = time.perf_counter()
        writer.write(
            b"GET /x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %s\r\n\r\n" % token.encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        self.free.append((reader, writer))
        return int(head[9:12]), time.perf_counter() - began


async def phase(
    client: Client, tokens: dict[str, str], seconds: float, loads: dict[str, float]
) -> dict[str, Answers]:
    answers: dict[str, Answers] = defaultdict(Answers)
    waiting: set[asyncio.Task[None]] = set()

    async def one(tier: str) -> None:
        status, took = await client.ask(tokens[tier])
        if status == 200:
            answers[tier].good.append(took)
        elif status == 503:
            answers[tier].refused.append(took)
        else:
            answers[tier].other += 1

    async def arrive(tier: str, load: float, ends: float) -> None:
        at = time.perf_counter()
        while at < ends:
            at += random.expovariate(load * CAPACITY)
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            task = asyncio.create_task(one(tier))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

    ends = time.perf_counter() + seconds
    await asyncio.gather(*(arrive(tier, load, ends) for tier, load in loads.items()))
    await asyncio.gather(*waiting)
    return answers


async def measure(log: Path) -> dict[str, dict[str, dict[str, float | int]]]:
    server = await backend()
    address = "{}:{}".format(*server.sockets[0].getsockname())
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            identity=Identity(issuer="me", audience="a", jwks_url=f"http://{address}/jwks"),
            routes=(Route(path="/x", methods=("GET",), service="s"),),
            services={"s": Upstream(concurrency=PLACES)},
        ),
        access_log=log,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", address)])
    expires = int(time.time()) + 600
    claims = {"iss": "me", "aud": "a", "tenant": "t1", "exp": expires}
    tokens = {
        tier: jwt.encode(
            {"alg": "ES256", "kid": "k1"}, {**claims, "tier": tier}, KEY, algorithms=["ES256"]
        )
        for tier in ("gold", "silver", "bronze")
    }
    client = Client(plane.listen)
    # Until the gateway has the issuer's keys.
    while (await client.ask(tokens["gold"]))[0] != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    found = {}
    for name, (seconds, loads) in PHASES.items():
        answers = await phase(client, tokens, seconds, loads)
        found[name] = {tier: answers[tier].summary() for tier in loads}
    plane.drain(1.0)
    server.close()
    return found


def main() -> None:
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.log"
        phases = asyncio.run(measure(log))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    shed = [line for line in lines if (line["tier"], line["status"]) == ("bronze", 503)]
    shed_us = statistics.quantiles([line["duration_us"] for line in shed], n=100)
    gold, unloaded = phases["overload"]["gold"], phases["unloaded"]["gold"]
    document = {
        "name": "shedding",
        "unit": "part of requests, milliseconds",
        "phases": phases,
        "gold_success": gold["success"],
        "gold_p99_over_unloaded": round(gold["answered_p99_ms"] / unloaded["answered_p99_ms"], 2),
        "bronze_refused_p99_ms": phases["overload"]["bronze"]["refused_p99_ms"],
        "bronze_refused_in_the_gateway_p99_ms": shed_us[98] / 1e3,
        "conditions": {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "load_average_before": os.getloadavg()[0],
            "backend": f"{PLACES} requests at once, {SERVICE * 1e3:.0f} ms each",
            "client": "open loop in Python, in the same process as the backend: its delays count",
        },
    }
    path = Path(__file__).parent / "results" / "shedding.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
