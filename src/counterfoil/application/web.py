"""Serves a declared `Service` over HTTP: idempotency, validation and problem+json answers."""

import asyncio
import hashlib
from collections.abc import Callable
from http import HTTPStatus

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
"""Characters; the draft for the header sets no limit, and an index needs one."""


class Refusal(Exception):
    """A command's refusal: nothing is written, the client gets a problem document (RFC 9457).

    `status` is one of HTTP's for errors, 400 to 599.

    Raises:
        ValueError: it is another one.
    """

    def __init__(self, status: int, detail: str) -> None:
        if HTTPStatus(status) < HTTPStatus.BAD_REQUEST:
            raise ValueError(f"{status} refuses nothing: use a status from 400 to 599")
        super().__init__(detail)
        self.status = status
        self.detail = detail


def web_application(service: Service, store: ServiceStore, queries: Queries) -> Starlette:
    """The ASGI application of `service`, which writes through `store` and reads by `queries`."""

    async def healthy(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    routes = [
        Route(command.path, _endpoint(command, store), methods=["POST"])
        for command in service.commands
    ]
    routes += [
        Route(query.path, _reading(query, queries), methods=["GET"]) for query in service.queries
    ]
    return Starlette(
        routes=[*routes, Route("/healthz", healthy)],
        exception_handlers={HTTPException: _unrouted},
    )


async def _unrouted(request: Request, error: Exception) -> Response:
    """What the router refuses, in the words of all other refusals."""
    assert isinstance(error, HTTPException)
    words = {
        HTTPStatus.NOT_FOUND: f"the service offers no {request.url.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} takes no {request.method}",
    }
    detail = words.get(HTTPStatus(error.status_code), error.detail)
    return problem(error.status_code, detail, dict(error.headers or {}))


def _endpoint(command: Command, store: ServiceStore) -> Callable[[Request], object]:
    decode = msgspec.json.Decoder(command.body).decode

    async def answer(request: Request) -> Response:
        key = request.headers.get("idempotency-key", "")
        if not 0 < len(key) <= IDEMPOTENCY_KEY_LIMIT:
            return problem(
                HTTPStatus.BAD_REQUEST,
                f"send an Idempotency-Key of 1 to {IDEMPOTENCY_KEY_LIMIT} characters",
            )
        content = await request.body()
        try:
            body = decode(content)
        except msgspec.ValidationError as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except UNREADABLE as error:
            return problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}")
        # A key belongs to its tenant: nobody is answered with what another tenant was told.
        who_asks = _who_asks(request)
        scoped = scoped_key(who_asks["tenant"], key)
        digest = hashlib.blake2b(command.path.encode() + b"\0" + content, digest_size=16).digest()
        headers = {**who_asks, "idempotency-key": key}

        def handle(unit: Unit) -> Reply:
            effect = answered(command.handle, body, unit)
            return Reply(
                status=HTTPStatus.CREATED,
                body=msgspec.json.encode(effect),
                headers={
                    "content-type": "application/json",
                    "counterfoil-effect": str(getattr(effect, "id", "")),
                },
            )

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


def _reading(query: Query, queries: Queries) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        asked = {**request.query_params, **request.path_params}
        try:
            decoded = msgspec.convert(asked, query.request, strict=False)
        except msgspec.ValidationError as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        headers = _who_asks(request)
        token = request.headers.get(HEADER, "")
        try:
            found = await asyncio.wrap_future(queries.submit(query, decoded, headers, token))
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
    """What the gateway says of a request."""
    return {
        "tenant": request.headers.get("x-counterfoil-tenant", ""),
        "tier": request.headers.get("x-counterfoil-tier", ""),
        "request-id": request.headers.get("x-request-id", ""),
    }


def scoped_key(tenant: str, key: str) -> str:
    """A tenant's Idempotency-Key among those of all tenants, to which no other pair leads.

    A slash ends the tenant, so a tenant's own are escaped. Others are left as they are: the answers
    to keys that are stored stay theirs.
    """
    return f"{tenant.replace('%', '%25').replace('/', '%2F')}/{key}"


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem document (RFC 9457)."""
    document = {"status": int(status), "title": HTTPStatus(status).phrase, "detail": detail}
    return Response(
        msgspec.json.encode(document), status, headers, media_type="application/problem+json"
    )
