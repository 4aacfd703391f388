"""The declaration of a service: its tables, commands and queries."""

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from counterfoil.application import binding
from counterfoil.application.configuration import ConfigurationError
from counterfoil.events import KEEP_SECONDS, Migration, Unit

if TYPE_CHECKING:
    from counterfoil.application.queries import View

Handler = Callable[[Any, Unit], msgspec.Struct | None]
QueryHandler = Callable[[Any, "View"], msgspec.Struct]
Method = Literal["POST", "PUT", "PATCH", "DELETE"]
"""The HTTP method of a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """A write that a service offers: a method and a path, with a typed request and answer."""

    method: Method
    path: str
    request: type[msgspec.Struct]
    """Its fields come from the path and the body; for a DELETE, from the path and the query
    string."""
    handle: Handler
    answer: type[msgspec.Struct] | type[None]
    """The type of the answer: a Struct, or None if the handler's return annotation is None."""

    def fits(self, path: str) -> bool:
        """Whether `path` matches this command's path."""
        return binding.fits(self.path, path)


@dataclass(frozen=True, slots=True)
class Query:
    """A read that a service offers: `GET path`, with a typed answer."""

    path: str
    request: type[msgspec.Struct]
    """Its fields come from the path and the query string."""
    handle: QueryHandler
    reads: tuple[str, ...]
    """The pipelines that must have handled the write of a client's consistency token."""

    def fits(self, path: str) -> bool:
        """Whether `path` matches this query's path."""
        return binding.fits(self.path, path)


@dataclass(slots=True)
class Service:
    """A service: its tables, the commands that write them, and the queries that read them.

    Each command runs in one transaction with the events that it publishes. Its answer is sent once
    that transaction is durable, and sent again when its Idempotency-Key is repeated.
    """

    name: str
    schema: tuple[str, ...]
    migrations: tuple[Migration, ...] = ()
    keep_seconds: float = KEEP_SECONDS
    """How long answers and sent events are kept."""
    commands: list[Command] = field(default_factory=list[Command])
    queries: list[Query] = field(default_factory=list[Query])

    def post(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `POST path`, such as `/carts`; it answers with 201.

        The first parameter's type has a field for each part of the path in braces; its other fields
        come from the body. The answer's `id` identifies the effect in the gateway's log and in
        `counterfoil trace`. A handler whose return annotation is None answers with 204.

        Raises:
            ConfigurationError: the path is malformed, declared twice or never reached, or the
                handler's first parameter has no Struct type.
        """
        return self._command("POST", path)

    def put(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `PUT path`, such as `/carts/{cart}`; it answers with 200.

        As `post`. A command that creates the resource calls `unit.created()`, and answers with 201.
        """
        return self._command("PUT", path)

    def patch(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `PATCH path`, which answers with 200; as `post`."""
        return self._command("PATCH", path)

    def delete(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `DELETE path`; it answers with 200, or 204 without an answer.

        As `post`, but the request has no body: fields not in the path come from the query string.
        """
        return self._command("DELETE", path)

    def _command(self, method: Method, path: str) -> Callable[[Handler], Handler]:
        _check_path(path, method, [each for each in self.commands if each.method == method])

        def declare(handle: Handler) -> Handler:
            request = _request_type(handle, "request: PaymentRequest, unit: Unit")
            binding.check(f"{method} {path}", path, request)
            nothing = typing.get_type_hints(handle).get("return") is NoneType
            answer = NoneType if nothing else msgspec.Struct
            self.commands.append(Command(method, path, request, handle, answer))
            return handle

        return declare

    def get(
        self, path: str, *, reads: Sequence[str] = ()
    ) -> Callable[[QueryHandler], QueryHandler]:
        """Declare the query behind `GET path`, such as `/balances/{account}`.

        The first parameter's type has a field for each part of the path in braces; its other fields
        come from the query string. A query reads committed data through its `View`, and can't
        write. `reads` names the pipelines whose state it reads: a client that sends the
        `counterfoil-consistency-token` of a write gets its answer once these have handled it.

        Raises:
            ConfigurationError: the path is malformed, declared twice or never reached, or the
                handler's first parameter has no Struct type.
        """
        _check_path(path, "GET", self.queries)

        def declare(handle: QueryHandler) -> QueryHandler:
            request = _request_type(handle, "request: BalanceRequest, view: View")
            binding.check(f"GET {path}", path, request)
            self.queries.append(Query(path, request, handle, tuple(reads)))
            return handle

        return declare


def _check_path(path: str, method: str, declared: Sequence[Command | Query]) -> None:
    if not path.startswith("/"):
        raise ConfigurationError(f"{path!r} is no path", hint=f'begin it with a slash: "/{path}"')
    if any(each.path == path for each in declared):
        raise ConfigurationError(f"{method} {path} is declared twice", hint="join the handlers")
    if earlier := next((each for each in declared if binding.covers(each.path, path)), None):
        raise ConfigurationError(
            f"{method} {path} is never reached: {method} {earlier.path} takes its requests",
            hint="declare it before the other",
        )


def _request_type(handle: Callable[..., Any], shown: str) -> type[msgspec.Struct]:
    """The type of a handler's first parameter."""
    parameters = list(inspect.signature(handle).parameters)
    request = typing.get_type_hints(handle).get(parameters[0]) if parameters else None
    if inspect.iscoroutinefunction(handle):
        raise ConfigurationError(
            f"{handle.__name__} is a coroutine: it runs within a transaction, which nothing may "
            "wait in",
            hint="write def, and leave what waits for others to a task queue",
        )
    if not (isinstance(request, type) and issubclass(request, msgspec.Struct)):
        raise ConfigurationError(
            f"{handle.__name__}: the first parameter has no msgspec.Struct type",
            hint=f"annotate it: def {handle.__name__}({shown})",
        )
    return request


def answered(
    handle: Callable[[Any, Any], Any],
    request: Any,
    context: Any,
    kind: type[msgspec.Struct] | type[None] = msgspec.Struct,
) -> Any:
    """The handler's answer, checked to be of `kind`.

    Raises:
        TypeError: it isn't, such as None where a `return` is missing.
    """
    answer = handle(request, context)
    if not isinstance(answer, kind):
        name, returned = getattr(handle, "__name__", "the handler"), type(answer).__name__
        wanted = "nothing, as it says" if kind is NoneType else "the answer, a Struct"
        raise TypeError(f"{name} has returned {returned}: return {wanted}")
    return answer
