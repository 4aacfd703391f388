"""Console API of the gateway: drain, breakers, cache, configuration.

The page never connects to the gateway. This process does, with the operators' credential, which is
not the session cookie and is never part of an answer. Every action is logged by this process.

A reload takes two steps: first the changes in the file are shown, with a digest; then the file is
put into force only if it still has this digest.
"""

import asyncio
import hashlib
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from counterfoil.application import Configuration, load
from counterfoil.application.web import problem
from counterfoil.console.requests import ACTOR, Answer, body_of
from counterfoil.errors import CounterfoilError
from counterfoil.gateway.changes import Change, changes
from counterfoil.gateway.data_plane import check
from counterfoil.supervisor.gateway_control import BreakerMode, GatewayControl
from counterfoil.supervisor.gateway_process import in_force
from counterfoil.supervisor.host import Host

RELOAD_SECONDS: Final = 6.0
"""Less than the page's timeout (`TIMEOUT_MS` in console/src/api/http.ts)."""
PURGE_LIMIT: Final = 1_000
"""Addresses and tags per purge, so that it is answered quickly."""
CHANGES_SHOWN: Final = 200
log = structlog.get_logger()
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Names = Annotated[list[Name], msgspec.Meta(max_length=PURGE_LIMIT)]


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the gateway refuses new clients."""

    on: bool


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A breaker, and the operator's override."""

    service: Name
    instance: Name
    mode: BreakerMode


class Purge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stored answers to purge, by address (path and query) and by tag."""

    urls: Names = []
    tags: Names = []
    soft: bool = False
    """Mark as stale instead of deleting."""


class Reload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The digest of the configuration that was shown."""

    digest: str


class DryRun(msgspec.Struct, frozen=True):
    """What a reload would do."""

    outcome: Literal["changes", "nothing", "refused"]
    digest: str
    problem: str
    """Why it would be refused."""
    changes: list[Change]
    more: int
    """The number of changes not shown."""


class Switches:
    """The endpoints for the gateway."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._control = GatewayControl(host.addresses.admin, host.state)

    def readers(self) -> dict[str, Answer]:
        """The GET endpoints."""
        return {"/api/gateway": self.show, "/api/gateway/reload": self.dry_run}

    def actions(self) -> dict[str, Answer]:
        """The POST endpoints."""
        return {
            "/api/gateway/drain": self.drain,
            "/api/gateway/breakers": self.hold_breaker,
            "/api/gateway/purge": self.purge,
            "/api/gateway/reload": self.reload,
        }

    async def show(self, _: Request) -> dict[str, Any]:
        """The gateway's limits, breakers and counters."""
        state = await asyncio.to_thread(self._control.state)
        latency = state.pop("latency_us")
        services = state.pop("services")
        return {
            **state,
            "services": [{"name": name, **each} for name, each in services.items()],
            "p50_ms": latency["p50"] / 1000 if state["requests"] else None,
            "p99_ms": latency["p99"] / 1000 if state["requests"] else None,
        }

    async def drain(self, request: Request) -> object:
        """Refuse new clients; or end the drain, which restarts the gateway."""
        on = msgspec.json.decode(await body_of(request), type=Drain).on
        await asyncio.to_thread(self._control.drain if on else self._control.restart)
        log.warning("gateway_drained" if on else "gateway_restarted", actor=ACTOR)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def hold_breaker(self, request: Request) -> object:
        """Force a breaker open or closed, or release it."""
        hold = msgspec.json.decode(await body_of(request), type=Hold)
        await asyncio.to_thread(self._control.hold_breaker, hold.service, hold.instance, hold.mode)
        log.warning("breaker_set", actor=ACTOR, **msgspec.structs.asdict(hold))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def purge(self, request: Request) -> object:
        """Purge stored answers."""
        wanted = msgspec.json.decode(await body_of(request), type=Purge)
        if not (wanted.urls or wanted.tags):
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "name an address or a tag to purge")
        await asyncio.to_thread(
            lambda: self._control.purge(urls=wanted.urls, tags=wanted.tags, soft=wanted.soft)
        )
        purged = {"urls": len(wanted.urls), "tags": len(wanted.tags), "soft": wanted.soft}
        log.warning("cache_purged", actor=ACTOR, **purged)
        return purged

    async def dry_run(self, _: Request) -> object:
        """What a reload would change, or why it would be refused; changes nothing."""
        return await asyncio.to_thread(self._dry_run)

    async def reload(self, request: Request) -> object:
        """Put the configuration that was shown into force."""
        digest = msgspec.json.decode(await body_of(request), type=Reload).digest

        def act() -> object:
            if self._dry_run().digest != digest:
                return problem(
                    HTTPStatus.CONFLICT,
                    "the file has changed since you looked at it: check it again",
                )
            version = self._control.reload(RELOAD_SECONDS)
            log.warning("gateway_reloaded", actor=ACTOR, version=version)
            return {"version": version}

        return await asyncio.to_thread(act)

    def _dry_run(self) -> DryRun:
        try:
            configuration = self._checked()
        except CounterfoilError as error:
            return DryRun("refused", "", str(error), [], 0)
        wanted = in_force(self._host, configuration)
        found = changes(self._control.configuration(), wanted, folder=self._host.folder)
        # The digest covers the configuration in force as well: shown changes are void if that has
        # changed meanwhile.
        digest = hashlib.sha256(msgspec.json.encode([wanted, found], order="sorted")).hexdigest()
        fixed = [change.setting for change in found if change.needs_start]
        shown, more = found[:CHANGES_SHOWN], max(len(found) - CHANGES_SHOWN, 0)
        if fixed:
            words = f"{', '.join(fixed)} can't change while the gateway runs"
            return DryRun("refused", digest, f"{words}: start it again", shown, more)
        return DryRun("changes" if found else "nothing", digest, "", shown, more)

    def _checked(self) -> Configuration:
        configuration = load(self._host.folder)
        check(configuration.gateway, folder=self._host.folder)
        return configuration
