"""The event types of an aggregate: names, versions and upcasts.

Stored events are never rewritten. An event keeps the version that it was written with, and is
converted to the current one each time it is read, by one function for each step between versions.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from counterfoil.events.errors import EventsError

Upcast = Callable[[dict[str, Any]], dict[str, Any]]


class Kind(msgspec.Struct, frozen=True):
    """One type of event, with its current version."""

    name: str
    version: int
    type: type[Any]


class Vocabulary:
    """The kinds of event of one aggregate."""

    def __init__(self, aggregate: str) -> None:
        self._aggregate = aggregate
        self._by_name: dict[str, Kind] = {}
        self._by_type: dict[type, Kind] = {}
        self._upcasts: dict[tuple[str, int], Upcast] = {}

    def add(self, kind: Kind) -> None:
        """Declare a kind of event.

        Raises:
            EventsError: name or type are declared already, or the version is not above 0.
        """
        if kind.name in self._by_name or kind.type in self._by_type:
            raise EventsError(
                f"{self._aggregate} has two events {kind.name!r}", hint="give one another name"
            )
        if kind.version < 1:
            raise EventsError(f"{kind.name}: versions begin with 1, not {kind.version}")
        self._by_name[kind.name] = self._by_type[kind.type] = kind

    def add_upcast(self, name: str, version: int, upcast: Upcast) -> None:
        """Declare how a stored event is converted from `version` to the next one.

        Raises:
            EventsError: that step is declared already.
        """
        if (name, version) in self._upcasts:
            raise EventsError(f"{name} has two upcasts from version {version}", hint="join them")
        self._upcasts[name, version] = upcast

    def encode(self, event: object) -> tuple[Kind, bytes]:
        """The kind of an event, and its content as JSON.

        Raises:
            EventsError: its type is not declared.
        """
        kind = self._by_type.get(type(event))
        if kind is None:
            raise EventsError(
                f"{self._aggregate} has no event {type(event).__name__}",
                hint="declare it with @aggregate.when()",
            )
        return kind, msgspec.json.encode(event)

    def decode(self, name: str, version: int, content: bytes) -> object:
        """A stored event, converted to its current version.

        Raises:
            EventsError: its name is not declared, it is newer than this program, or an upcast is
                missing.
            msgspec.ValidationError: the content doesn't fit the type.
        """
        kind = self._by_name.get(name)
        if kind is None or version > kind.version:
            raise EventsError(
                f"{self._aggregate}: no event {name!r} of version {version} is declared",
                hint="a newer program has written it, or the declaration was removed",
            )
        if version == kind.version:
            return msgspec.json.decode(content, type=kind.type)
        document = msgspec.json.decode(content)
        for step in range(version, kind.version):
            upcast = self._upcasts.get((name, step))
            if upcast is None:
                raise EventsError(
                    f"{self._aggregate}: {name} has no upcast from version {step}",
                    hint=f'declare it with @aggregate.upcast("{name}", {step})',
                )
            document = upcast(document)
        return msgspec.convert(document, kind.type)
