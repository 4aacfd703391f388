"""A retrying client that records every acknowledged request."""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from counterfoil.application import Request
from counterfoil.errors import CounterfoilError

CONCURRENCY: Final = 64
ATTEMPT_SECONDS: Final = 5.0
DEADLINE_SECONDS: Final = 90.0
IMPATIENT: Final = 0.02
"""The share of requests that are sent twice with the same key: usually the client hangs up before
the first answer, like phones in tunnels."""
DONE: Final = range(200, 300)
RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the gateway acknowledged for one request."""

    key: str
    id: int
    amount: int


class NothingPromised(CounterfoilError):
    """An answer contains no effect id, so its effect can't be looked up."""


class _Promise(msgspec.Struct, frozen=True):
    """The part of an answer that is read."""

    id: str | int


_Asked = tuple[str, str]
"""(tenant, Idempotency-Key): keys of different tenants are independent."""


@dataclass(slots=True)
class ClientRecord:
    """The client's own record, independent of everything that is proved."""

    sent: int = 0
    attempts: int = 0
    acknowledged: dict[_Asked, Acknowledged] = field(default_factory=dict[_Asked, Acknowledged])
    refused: dict[_Asked, int] = field(default_factory=dict[_Asked, int])
    """The statuses of requests that were finally refused."""
    changed_answers: list[str] = field(default_factory=list[str])
    """Keys for which a repeated request got another id."""
    latencies_ms: list[float] = field(default_factory=list[float])
    refusals: int = 0
    """Answers with status 503. Each must have Retry-After, and arrive at once."""
    refusals_without_retry_after: int = 0
    slowest_refusal_ms: float = 0.0


class Client:
    """Sends requests through the gateway until each has a final answer or times out."""

    def __init__(
        self, gateway: str, authority: Path | None, tokens: dict[str, str], *, seed: int
    ) -> None:
        """`authority` is the CA of the gateway at `gateway` (`host:port`); None without TLS."""
        self._base = f"https://{gateway}" if authority else f"http://{gateway}"
        self._tls = ssl.create_default_context(cafile=str(authority)) if authority else True
        self._tokens = tokens
        self._random = random.Random(seed)
        self.rate = 0.0
        """New requests per second; 0 for as fast as answers arrive."""
        self._next = 0.0
        self.record = ClientRecord()

    async def send(
        self, requests: Sequence[Request], on_progress: Callable[[int], None]
    ) -> ClientRecord:
        """Send all requests, several at a time; `on_progress` gets the number of final ones."""
        pending = iter(requests)
        connector = aiohttp.TCPConnector(limit=CONCURRENCY, ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

            async def work() -> None:
                for request in pending:
                    self.record.sent += 1
                    await self._turn()
                    await self._until_final(session, request)
                    on_progress(len(self.record.acknowledged) + len(self.record.refused))

            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return self.record

    async def _turn(self) -> None:
        """Wait as the rate demands, if there is one."""
        loop = asyncio.get_running_loop()
        self._next = max(self._next, loop.time())
        turn = self._next
        if self.rate:
            self._next += 1 / self.rate
        while self.rate and (early := turn - loop.time()) > 0:
            await asyncio.sleep(min(early, 0.1))

    async def _until_final(self, session: aiohttp.ClientSession, request: Request) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_SECONDS
        body = None if request.body is None else msgspec.json.encode(request.body)
        headers = {
            "authorization": f"Bearer {self._tokens[request.tenant]}",
            "content-type": "application/json",
            "idempotency-key": request.idempotency_key,
        }
        if self._random.random() < IMPATIENT:
            await self._ask_twice(session, request, body, headers)
        pause = 0.05
        while loop.time() < deadline:
            self.record.attempts += 1
            started = loop.time()
            try:
                async with session.request(
                    request.method, self._base + request.path, data=body, headers=headers
                ) as response:
                    content = await response.read()
                    status = response.status
                    if status == 503:
                        self._refused(response, loop.time() - started)
            except (aiohttp.ClientError, TimeoutError):
                status, content = 503, b""
            if status in DONE:
                self.record.latencies_ms.append((loop.time() - started) * 1000)
                self._acknowledge(request, content)
                return
            if status not in RETRIED:
                self.record.refused[request.tenant, request.idempotency_key] = status
                return
            await asyncio.sleep(self._random.uniform(0, pause))
            pause = min(pause * 2, 1.0)

    async def _ask_twice(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        body: bytes | None,
        headers: dict[str, str],
    ) -> None:
        """Send a request once, and possibly hang up before its answer; it is sent again anyway."""
        self.record.attempts += 1
        patience = self._random.choice([0.004, 0.02, ATTEMPT_SECONDS])
        try:
            async with session.request(
                request.method,
                self._base + request.path,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience),
            ) as response:
                content = await response.read()
                if response.status in DONE:
                    self._acknowledge(request, content)
        except (aiohttp.ClientError, TimeoutError):
            return  # the outcome is unknown; the repeated request resolves it

    def _refused(self, response: aiohttp.ClientResponse, seconds: float) -> None:
        self.record.refusals += 1
        self.record.refusals_without_retry_after += "retry-after" not in response.headers
        self.record.slowest_refusal_ms = max(self.record.slowest_refusal_ms, seconds * 1000)

    def _acknowledge(self, request: Request, content: bytes) -> None:
        try:
            number = int(msgspec.json.decode(content, type=_Promise).id)
        except (msgspec.DecodeError, ValueError) as error:
            raise NothingPromised(
                f"{request.method} {request.path} was answered without an effect's id: {error}",
                hint="let the workload send what answers with a Struct that has an id",
            ) from error
        promised = Acknowledged(request.idempotency_key, number, request.amount)
        asked = (request.tenant, request.idempotency_key)
        earlier = self.record.acknowledged.setdefault(asked, promised)
        if earlier.id != promised.id:
            self.record.changed_answers.append(request.idempotency_key)
