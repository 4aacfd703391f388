"""A service as it is declared: its tables, and the commands and queries that it offers."""

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from counterfoil.application.configuration import ConfigurationError
from counterfoil.events import KEEP_SECONDS, Unit

if TYPE_CHECKING:
    from counterfoil.application.queries import View

Handler = Callable[[Any, Unit], msgspec.Struct]
QueryHandler = Callable[[Any, "View"], msgspec.Struct]
_PLACE: Final = re.compile(r"{([^}]*)}")
"""A part of a query's path that is a field of its request."""


@dataclass(frozen=True, slots=True)
class Command:
    """A write that a service offers: `POST path` with a typed body and a typed answer."""

    path: str
    body: type[msgspec.Struct]
    handle: Handler


@dataclass(frozen=True, slots=True)
class Query:
    """A read that a service offers: `GET path`, with a typed answer."""

    path: str
    request: type[msgspec.Struct]
    """Its fields are the parts of the path and the parameters of the query string."""
    handle: QueryHandler
    reads: tuple[str, ...]
    """The pipelines that have to have handled the write whose token a client hands in."""

    def fits(self, path: str) -> bool:
        """Whether a request for `path` is for this query."""
        pattern = _PLACE.sub("\0", self.path)
        return re.fullmatch(re.escape(pattern).replace("\0", "[^/]+"), path) is not None


@dataclass(slots=True)
class Service:
    """A service: its tables, the commands that write them, and the queries that read.

    Each command runs in one transaction with the events that it publishes; its answer is sent
    after that transaction is durable, and sent again to whoever repeats its Idempotency-Key.
    """

    name: str
    schema: tuple[str, ...]
    keep_seconds: float = KEEP_SECONDS
    """How long answers and sent events are kept."""
    commands: list[Command] = field(default_factory=list[Command])
    queries: list[Query] = field(default_factory=list[Query])

    def post(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `POST path`; the first parameter's type is the body's.

        The answer's `id` is the effect that the gateway's log and `counterfoil trace` know.

        Raises:
            ConfigurationError: the path is none or is declared twice, or the handler does not say
                what it takes.
        """
        _check_path(path, "POST", self.commands)

        def declare(handle: Handler) -> Handler:
            body = _request_type(handle, "request: PaymentRequest, unit: Unit")
            self.commands.append(Command(path, body, handle))
            return handle

        return declare

    def get(
        self, path: str, *, reads: Sequence[str] = ()
    ) -> Callable[[QueryHandler], QueryHandler]:
        """Declare the query behind `GET path`: `/balances/{account}`, say.

        The first parameter's type has a field for each part of the path in braces, and others for
        what may be in the query string. A query sees what is committed, by its `View`, and can
        change nothing. `reads` names the pipelines whose state it reads: a client that hands in the
        `counterfoil-consistency-token` of a write's answer is answered once these have handled it.

        Raises:
            ConfigurationError: the path is none or is declared twice, or the handler does not say
                what it takes.
        """
        _check_path(path, "GET", self.queries)

        def declare(handle: QueryHandler) -> QueryHandler:
            request = _request_type(handle, "request: BalanceRequest, view: View")
            known = {each.encode_name for each in msgspec.structs.fields(request)}
            if missing := [name for name in _PLACE.findall(path) if name not in known]:
                raise ConfigurationError(
                    f"GET {path}: {request.__name__} has no field {missing[0]!r}",
                    hint="name the parts of the path as the fields of the request",
                )
            self.queries.append(Query(path, request, handle, tuple(reads)))
            return handle

        return declare


def _check_path(path: str, method: str, declared: Sequence[Command | Query]) -> None:
    if not path.startswith("/"):
        raise ConfigurationError(f"{path!r} is no path", hint=f'begin it with a slash: "/{path}"')
    if any(each.path == path for each in declared):
        raise ConfigurationError(f"{method} {path} is declared twice", hint="join the handlers")


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


def answered(handle: Callable[[Any, Any], msgspec.Struct], request: Any, context: Any) -> Any:
    """What a handler answers.

    Raises:
        TypeError: that is no Struct, such as None where a `return` was forgotten.
    """
    answer = handle(request, context)
    if not isinstance(answer, msgspec.Struct):  # pyright: ignore[reportUnnecessaryIsInstance]
        name, kind = getattr(handle, "__name__", "the handler"), type(answer).__name__
        raise TypeError(f"{name} has returned {kind}: return the answer, a Struct")
    return answer
