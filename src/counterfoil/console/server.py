"""The console's HTTP server: JSON for the page, the published reports, and the page itself.

The address that `counterfoil up` prints has the operators' key in its fragment, which is never sent
to a server or logged. The page exchanges the key for a cookie that scripts can't read (`HttpOnly`)
and other sites can't send (`SameSite=Strict`). Other ports of this host count as the same site, so
actions also require the same origin.
"""

import asyncio
import hashlib
import hmac
import json
import shlex
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from counterfoil import secret
from counterfoil.application.web import problem
from counterfoil.console.letters import Letters
from counterfoil.console.switches import Switches
from counterfoil.console.topics import Topics
from counterfoil.console.way import NOTHING, Way
from counterfoil.console.work import Work
from counterfoil.coordination import MachineIds, Registry, Unavailable, leaders
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    DeadLetterSettled,
    HandlerFailed,
    InvalidReplacement,
    Lag,
    LogUnavailable,
    NoHandler,
    NoSuchDeadLetter,
    NoSuchSaga,
    StoreUnavailable,
    attach_schemas,
    lag,
)
from counterfoil.proof.stores import open_stores
from counterfoil.proof.trace import trace
from counterfoil.reports import published
from counterfoil.supervisor.gateway_control import GatewayRefused, GatewayUnreachable
from counterfoil.supervisor.host import Host
from counterfoil.supervisor.log_tail import log_tail

STATIC: Final = Path(__file__).parent / "static"
COOKIE: Final = "counterfoil"
DAYS_SHOWN: Final = 366
"""The newest days of a report to show: more than the page can draw; the file has all."""
LINES_SHOWN: Final = 500
"""The last lines of a process's log to show."""
POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_STATUS: Final[dict[type[Exception], HTTPStatus]] = {
    msgspec.DecodeError: HTTPStatus.BAD_REQUEST,
    InvalidReplacement: HTTPStatus.UNPROCESSABLE_ENTITY,
    HandlerFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoHandler: HTTPStatus.UNPROCESSABLE_ENTITY,
    DeadLetterSettled: HTTPStatus.CONFLICT,
    NoSuchDeadLetter: HTTPStatus.NOT_FOUND,
    NoSuchSaga: HTTPStatus.NOT_FOUND,
    GatewayRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    GatewayUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    LogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    OSError: HTTPStatus.SERVICE_UNAVAILABLE,
    CounterfoilError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The status for each error; the first match applies."""


def console(host: Host) -> None:
    """The console of a supervised application."""
    console = Console(host)
    with console.looking():
        host.serve(console.application(), host.addresses.console)


class Console:
    """The endpoints of the console."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._credential = host.state.credential()
        self._cookie = hmac.new(
            self._credential.encode(), b"console session", hashlib.sha256
        ).hexdigest()
        self._read_only = host.configuration.console.read_only
        counterfoils = host.application.counterfoils
        self._events = host.events()
        attach_schemas(host.application.all_topics(), self._events.registry)
        self._letters = Letters(host.application, self._events)
        self._switches = Switches(host)
        self._topics = Topics(host.application, self._events, host.state)
        self._work = Work(host.application, self._events)
        self._stores = open_stores(host.application.name, host.configuration, host.state)
        self._way = Way(counterfoils, self._stores) if counterfoils is not None else None

    def looking(self) -> AbstractContextManager[None]:
        """Reconcile in the background while the block runs, if there is something to match."""
        return nullcontext() if self._way is None else self._way.looking()

    def application(self) -> Starlette:
        """The ASGI application."""
        readers = {
            "/api/overview": self.overview,
            "/api/trace/{identity:path}": self.trace,
            **self._letters.readers(),
            "/api/lag": self.lag,
            "/api/topics": self._topics.show,
            "/api/reports": self.reports,
            "/api/reports/{name}": self.report,
            **self._work.readers(),
            **self._switches.readers(),
            "/api/processes/{name}/log": self.process_log,
            "/api/coordination": self.coordination,
            "/api/proof": self.proof,
        }
        return Starlette(
            routes=[
                Route("/api/session", self.session, methods=["POST"]),
                *(Route(path, self._guarded(answer)) for path, answer in readers.items()),
                *(
                    Route(path, self._guarded(self._acting(act)), methods=["POST"])
                    for path, act in {
                        **self._letters.actions(),
                        **self._switches.actions(),
                    }.items()
                ),
                Route("/reports/{name}/{file}", self._guarded(self.report_file)),
                Route("/{path:path}", self.page),
            ]
        )

    def _guarded(
        self, answer: Callable[[Request], Awaitable[object]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Require a session; results that are not responses are sent as JSON."""

        async def guarded(request: Request) -> Response:
            if (refused := self._refused(request)) is not None:
                return refused
            try:
                found = await answer(request)
            except tuple(_STATUS) as error:
                kind = next(kind for kind in _STATUS if isinstance(error, kind))
                return problem(_STATUS[kind], str(error))
            if isinstance(found, Response):
                return found
            return Response(
                msgspec.json.encode(found),
                media_type="application/json",
                headers={"cache-control": "no-store"},
            )

        return guarded

    def _acting(
        self, act: Callable[[Request], Awaitable[object]]
    ) -> Callable[[Request], Awaitable[object]]:
        """Refuse if the console is read-only."""

        async def acting(request: Request) -> object:
            if self._read_only:
                return problem(
                    HTTPStatus.FORBIDDEN, "this console is read-only: [console] read_only"
                )
            return await act(request)

        return acting

    def _refused(self, request: Request) -> Response | None:
        given = request.cookies.get(COOKIE, "")
        if not secret.matches(given, self._cookie):
            return problem(
                HTTPStatus.UNAUTHORIZED, "open the address that `counterfoil up` printed"
            )
        origin = request.headers.get("origin")
        ours = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if request.method != "GET" and origin not in (None, ours):
            return problem(HTTPStatus.FORBIDDEN, "this request comes from another page")
        return None

    async def session(self, request: Request) -> Response:
        """Exchange the operators' key for a session cookie."""
        try:
            key = str(json.loads(await request.body())["key"])
        except (ValueError, KeyError, TypeError):
            return problem(HTTPStatus.BAD_REQUEST, 'send {"key": "..."}')
        if not secret.matches(key, self._credential):
            return problem(HTTPStatus.UNAUTHORIZED, "this is not the key of this application")
        response = Response(status_code=HTTPStatus.NO_CONTENT)
        response.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict", path="/")
        return response

    async def overview(self, _: Request) -> object:
        """The reconciliation and the processes, for the first page."""
        run = json.loads(self._host.state.run.read_text())
        try:
            gateway = await self._switches.show(_)
        except GatewayUnreachable:
            gateway = None
        return {
            "application": self._host.application.name,
            "folder": shlex.quote(str(self._host.folder)),
            "state_folder": shlex.quote(str(self._host.state.root)),
            "read_only": self._read_only,
            "gateway": gateway,
            "processes": run["processes"],
            **(NOTHING if self._way is None else self._way.document()),
        }

    async def process_log(self, request: Request) -> object:
        """The last lines of a process's log."""
        name = request.path_params["name"]
        run = json.loads(self._host.state.run.read_text())
        if name not in {each["name"] for each in run["processes"]}:
            return problem(HTTPStatus.NOT_FOUND, f"there is no process {name!r}")
        return await asyncio.to_thread(log_tail, self._host.state.process_log(name), LINES_SHOWN)

    async def trace(self, request: Request) -> object:
        """The stages of one payment."""
        identity = request.path_params["identity"]
        log = self._events.log()
        steps = await asyncio.to_thread(trace, self._host.application, self._stores, log, identity)
        return {"identity": identity, "steps": steps}

    async def lag(self, _: Request) -> object:
        """The lag of each consumer."""

        def ask() -> list[Lag]:
            with closing(self._events.pipelines()) as store:
                return lag(self._events.log(), store)

        return await asyncio.to_thread(ask)

    async def reports(self, _: Request) -> object:
        """All reports with the source versions they were computed from."""
        return [
            {
                **{key: found[key] for key in ("name", "title", "version", "published_us")},
                "days": len(found["reasons"]),
                "unread": found.get("unread", 0),
                "sections": list(found["sections"]),
            }
            for found in map(self._published, self._host.application.reports)
        ]

    async def report(self, request: Request) -> object:
        """The rows of one report."""
        name = request.path_params["name"]
        if name not in self._host.application.reports:
            return problem(HTTPStatus.NOT_FOUND, f"there is no report {name!r}")
        found, report = self._published(name), self._host.application.reports[name]
        sections: list[dict[str, object]] = []
        left_out = 0
        for section, content in found["sections"].items():
            days: dict[str, list[Any]] = {
                day: rows for day, rows in sorted(content["days"].items()) if rows
            }
            newest = list(days)[-DAYS_SHOWN:]
            left_out = max(left_out, len(days) - len(newest))
            sections.append(
                {
                    "name": section,
                    "columns": content["columns"],
                    "rows": [row for day in newest for row in days[day]],
                    "one_a_day": all(len(rows) == 1 for rows in days.values()),
                }
            )
        return {
            **{key: found[key] for key in ("name", "title", "version", "published_us")},
            "unread": found.get("unread", 0),
            "letters": self._host.application.lake_name(report.source.name),
            "amounts": report.amounts,
            "days_left_out": left_out,
            "sections": sections,
            "corrected": {
                day: reason for day, reason in found["reasons"].items() if reason != "new"
            },
        }

    async def report_file(self, request: Request) -> object:
        """A published file."""
        name, file = request.path_params["name"], request.path_params["file"]
        path = self._host.state.reports / name / file
        known = name in self._host.application.reports and path.suffix in {".csv", ".html"}
        if not known or path.name != file or not path.is_file():
            return problem(HTTPStatus.NOT_FOUND, f"there is no published file {name}/{file}")
        return FileResponse(path)

    async def coordination(self, _: Request) -> object:
        """Instances, leaders, and the holders of machine numbers."""
        return await asyncio.to_thread(self._ask_coordination)

    async def proof(self, _: Request) -> object:
        """The verdict of the last proof in this state folder."""
        path = self._host.state.proof
        return json.loads(path.read_text()) if path.exists() else None

    async def page(self, request: Request) -> Response:
        """A file of the page; addresses without a suffix get its index, for client-side routing."""
        wanted = (STATIC / request.path_params["path"]).resolve()
        inside = wanted.is_relative_to(STATIC) and wanted.is_file()
        if not inside and wanted.suffix:
            return problem(HTTPStatus.NOT_FOUND, "there is no such file")
        path = wanted if inside else STATIC / "index.html"
        if not path.exists():
            return problem(HTTPStatus.NOT_FOUND, "the console's page was not built: `make setup`")
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        return FileResponse(path, headers=headers)

    def _published(self, name: str) -> dict[str, Any]:
        return published(self._host.application.reports[name], self._host.state.reports / name)

    def _ask_coordination(self) -> dict[str, object]:
        client = self._host.coordination()
        holders = MachineIds(client).holders()
        return {
            "instances": Registry(client).instances(),
            "leaders": leaders(client),
            "machine_ids": [
                {"number": number, "holder": holder} for number, holder in holders.items()
            ],
        }
