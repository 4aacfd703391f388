"""Asks a console without the processes around it, as its page does: with a session, by ASGI."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from counterfoil.application import StateFolder, load, load_application
from counterfoil.console.server import Console
from counterfoil.events import Events
from counterfoil.supervisor.host import Host
from counterfoil.supervisor.plan import Addresses

NOWHERE = Addresses("", "", "", "")


class HostOf(Host):
    """A host whose events are given."""

    given: Events | None = None

    def events(self) -> Events:
        return super().events() if self.given is None else self.given


class ConsoleClient:
    """The console of the application in `folder`, signed in to."""

    def __init__(
        self,
        folder: Path,
        state: Path,
        *,
        read_only: bool = False,
        addresses: Addresses = NOWHERE,
        events: Events | None = None,
    ) -> None:
        state.mkdir(exist_ok=True)
        configuration = load(folder)
        settings = msgspec.structs.replace(configuration.console, read_only=read_only)
        self.host = HostOf(
            name="console",
            target="",
            folder=folder,
            application=load_application(folder, configuration.application.module),
            configuration=msgspec.structs.replace(configuration, console=settings),
            state=StateFolder(state),
            addresses=addresses,
        )
        self.host.given = events
        self.key = self.host.state.credential()
        self._application = Console(self.host).application()
        self._cookies = httpx2.Cookies()
        assert self.post("/api/session", {"key": self.key}).status_code == 204

    def get(self, path: str) -> Any:
        """The document behind an address."""
        answer = self.send("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object = None, **headers: str) -> httpx2.Response:
        """The answer to an action."""
        return self.send("POST", path, body, headers)

    def leave(self) -> None:
        """Forget the session."""
        self._cookies = httpx2.Cookies()

    def send(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """The answer, whatever it is; the key is never in it."""

        async def send() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self._application)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://console", cookies=self._cookies
            ) as client:
                answer = await client.request(method, path, json=body, headers=headers)
                self._cookies = client.cookies
                return answer

        answer = asyncio.run(send())
        assert self.key not in answer.text
        return answer
