"""A service as it is declared: its tables, and the commands that it offers."""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from counterfoil.application.configuration import ConfigurationError
from counterfoil.events import Unit

Handler = Callable[[Any, Unit], msgspec.Struct]


@dataclass(frozen=True, slots=True)
class Command:
    """A write that a service offers: `POST path` with a typed body and a typed answer."""

    path: str
    body: type[msgspec.Struct]
    handle: Handler


@dataclass(slots=True)
class Service:
    """A service: its tables, and the commands that write them.

    Each command runs in one transaction with the events that it publishes; its answer is sent
    after that transaction is durable, and sent again to whoever repeats its Idempotency-Key.
    """

    name: str
    schema: tuple[str, ...]
    commands: list[Command] = field(default_factory=list[Command])

    def post(self, path: str) -> Callable[[Handler], Handler]:
        """Declare the command behind `POST path`; the first parameter's type is the body's.

        The answer's `id` is the effect that the gateway's log and `counterfoil trace` know.

        Raises:
            ConfigurationError: the path is none or is declared twice, or the handler does not say
                what it takes.
        """
        if not path.startswith("/"):
            raise ConfigurationError(
                f"{path!r} is no path", hint=f'begin it with a slash: "/{path}"'
            )
        if any(command.path == path for command in self.commands):
            raise ConfigurationError(f"POST {path} is declared twice", hint="join the handlers")

        def declare(handle: Handler) -> Handler:
            parameters = list(inspect.signature(handle).parameters)
            body = typing.get_type_hints(handle).get(parameters[0]) if parameters else None
            if inspect.iscoroutinefunction(handle):
                raise ConfigurationError(
                    f"{handle.__name__}: a command is no coroutine: it runs within a transaction, "
                    "which nothing may wait in",
                    hint="write def, and leave what waits for others to a task queue",
                )
            if not (isinstance(body, type) and issubclass(body, msgspec.Struct)):
                raise ConfigurationError(
                    f"{handle.__name__}: the first parameter has no msgspec.Struct type",
                    hint="annotate it: def accept(request: PaymentRequest, unit: Unit)",
                )
            self.commands.append(Command(path, body, handle))
            return handle

        return declare
