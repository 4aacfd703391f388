"""Serves a declared `Service` over HTTP: idempotency, validation, problem+json answers."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from counterfoil.application import binding
from counterfoil.application.queries import Queries
from counterfoil.application.service import Command, Query, Service, answered
from counterfoil.events import (
    UNREADABLE,
    BadToken,
    InvalidEvent,
    KeyReused,
    NotCaughtUp,
    Reply,
    ServiceStore,
    StoreUnavailable,
    Unit,
    VersionConflict,
)
from counterfoil.events import Command as StoreCommand
from counterfoil.events.consistency import HEADER

log = structlog.get_logger()
IDEMPOTENCY_KEY_LIMIT = 255
"""In characters. The header's draft sets no limit, but the database index needs one."""


class Refusal(Exception):
    """A command's refusal: nothing is written, the client gets a problem document (RFC 9457).

    `status` is one of `http.HTTPStatus` from 400 to 599.

    Raises:
        ValueError: it isn't.
    """

    def __init__(self, status: int, detail: str) -> None:
        if HTTPStatus(status) < HTTPStatus.BAD_REQUEST:
            raise ValueError(f"{status} refuses nothing: use a status from 400 to 599")
        super().__init__(detail)
        self.status = status
        self.detail = detail


def web_application(service: Service, store: ServiceStore, queries: Queries) -> Starlette:
    """The ASGI application of `service`: it writes through `store` and reads through `queries`."""

    async def healthy(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    routes = [Route("/healthz", healthy)]  # first, so that no path parameter matches it
    routes += [
        Route(command.path, _endpoint(command, store), methods=[command.method])
        for command in service.commands
    ]
    routes += [
        Route(query.path, _reading(query, queries), methods=["GET"]) for query in service.queries
    ]

    async def unrouted(request: Request, error: Exception) -> Response:
        """Answers the router's own errors as problem documents, and OPTIONS with `Allow`."""
        assert isinstance(error, HTTPException)
        headers, status = dict(error.headers or {}), HTTPStatus(error.status_code)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router lists the methods of one route only; a path may have several routes.
            headers["Allow"] = _methods(routes, request)
            if request.method == "OPTIONS":
                return Response(None, HTTPStatus.NO_CONTENT, headers)
        words = {
            HTTPStatus.NOT_FOUND: f"the service offers no {request.url.path}",
            HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} takes no {request.method}",
        }
        return problem(status, words.get(status, error.detail), headers)

    return Starlette(routes=routes, exception_handlers={HTTPException: unrouted})


def _methods(routes: Iterable[Route], request: Request) -> str:
    """The methods of a request's path, in the format of `Allow`."""
    fitting = [each for each in routes if each.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({"OPTIONS"}.union(*(each.methods or () for each in fitting))))


def _endpoint(command: Command, store: ServiceStore) -> Callable[[Request], object]:
    read = _reader(command)

    async def answer(request: Request) -> Response:
        key = request.headers.get("idempotency-key", "")
        if not 0 < len(key) <= IDEMPOTENCY_KEY_LIMIT:
            return problem(
                HTTPStatus.BAD_REQUEST,
                f"send an Idempotency-Key of 1 to {IDEMPOTENCY_KEY_LIMIT} characters",
            )
        content = await request.body()
        try:
            read(request, content)
        except msgspec.ValidationError as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except UNREADABLE as error:
            return problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}")
        except Refusal as refusal:
            return problem(refusal.status, refusal.detail)
        # Keys are scoped by tenant: no tenant gets another's answer.
        who_asks = _who_asks(request)
        scoped = scoped_key(who_asks["tenant"], key)
        digest = _digest(command, request, content)
        headers = {**who_asks, "idempotency-key": key}

        def handle(unit: Unit) -> Reply:
            # Decoded for each attempt: one that was rolled back may have mutated its request.
            asked = read(request, content)
            return _reply(command, answered(command.handle, asked, unit, command.answer), unit)

        try:
            reply = await asyncio.wrap_future(
                store.submit(StoreCommand(scoped, digest, headers, handle))
            )
        except KeyReused:
            return problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "this Idempotency-Key was used before with another request",
            )
        except InvalidEvent as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except VersionConflict as error:
            return problem(HTTPStatus.CONFLICT, str(error))
        except Refusal as refusal:
            return problem(refusal.status, refusal.detail)
        except StoreUnavailable as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"retry-after": "1"})
        except Exception:
            log.exception("command_failed", path=command.path, request_id=headers["request-id"])
            detail = "the command failed, and nothing was written; the service's log says why"
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
        return Response(reply.body, reply.status, reply.headers)

    return answer


def _reader(command: Command) -> Callable[[Request, bytes], Any]:
    """A function that decodes a command's request; raises as `binding` does, and `Refusal`."""
    if command.method == "DELETE":
        from_address = binding.from_address(command.request)

        def read(request: Request, content: bytes) -> Any:
            if content:
                detail = "a DELETE takes no body here: say it in the query string"
                raise Refusal(HTTPStatus.BAD_REQUEST, detail)
            return from_address(request.path_params, request.query_params)

        return read
    from_body = binding.from_body(command.path, command.request)
    return lambda request, content: from_body(request.path_params, content)


def _digest(command: Command, request: Request, content: bytes) -> bytes:
    """The digest that tells a repetition of a request from another request with the same key.

    Digests are stored, so that of a POST must not change: it leaves out the method.
    """
    said: str = request.scope["path"]
    if command.method != "POST":
        said = f"{command.method} {said}"
    if command.method == "DELETE":
        said += f"?{request.url.query}"
    return hashlib.blake2b(said.encode() + b"\0" + content, digest_size=16).digest()


def _reply(command: Command, answer: msgspec.Struct | None, unit: Unit) -> Reply:
    """The reply to a completed command (RFC 9110, sections 9.3.3 to 9.3.5)."""
    headers = {"counterfoil-effect": str(getattr(answer, "id", ""))}
    made = unit.has_created or (command.method == "POST" and answer is not None)
    if answer is None:
        return Reply(HTTPStatus.CREATED if made else HTTPStatus.NO_CONTENT, b"", headers)
    return Reply(
        HTTPStatus.CREATED if made else HTTPStatus.OK,
        msgspec.json.encode(answer),
        {"content-type": "application/json", **headers},
    )


def _reading(query: Query, queries: Queries) -> Callable[[Request], object]:
    read = binding.from_address(query.request)

    async def answer(request: Request) -> Response:
        try:
            asked = read(request.path_params, request.query_params)
        except msgspec.ValidationError as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        headers = _who_asks(request)
        token = request.headers.get(HEADER, "")
        try:
            found = await asyncio.wrap_future(queries.submit(query, asked, headers, token))
        except Refusal as refusal:
            return problem(refusal.status, refusal.detail)
        except BadToken as error:
            return problem(HTTPStatus.BAD_REQUEST, str(error))
        except (NotCaughtUp, StoreUnavailable) as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"retry-after": "1"})
        except Exception:
            log.exception("query_failed", path=query.path, request_id=headers["request-id"])
            detail = "the query failed; the service's log says why"
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
        return Response(msgspec.json.encode(found), media_type="application/json")

    return answer


def _who_asks(request: Request) -> dict[str, str]:
    """The tenant, tier and request id that the gateway passes in headers."""
    return {
        "tenant": request.headers.get("x-counterfoil-tenant", ""),
        "tier": request.headers.get("x-counterfoil-tier", ""),
        "request-id": request.headers.get("x-request-id", ""),
    }


def scoped_key(tenant: str, key: str) -> str:
    """The Idempotency-Key qualified by its tenant; distinct pairs give distinct results.

    The slash separates the two, so slashes in the tenant are escaped. The format must not change:
    answers are stored under it.
    """
    return f"{tenant.replace('%', '%25').replace('/', '%2F')}/{key}"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem document (RFC 9457)."""
    document = {"status": int(status), "title": HTTPStatus(status).phrase, "detail": detail}
    return Response(
        msgspec.json.encode(document), status, headers, media_type="application/problem+json"
    )
