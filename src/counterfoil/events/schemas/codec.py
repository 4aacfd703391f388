"""Codecs of topics: JSON, or a binary format with a registered schema.

A codec belongs to one topic in one process. JSON needs no registry. A format with schemas gets its
own schema's id when the topic is declared, and looks up each other id when it first meets it: an
event's writer may have had an older or a newer type. Schemas are cached.

Bytes without an id, or with one that the registry doesn't know, are `UndecodableEvent`, and become
dead letters. An unavailable registry is not the event's fault: the event is retried.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from counterfoil.events.errors import (
    EventsError,
    IncompatibleSchema,
    RegistryUnavailable,
    UndecodableEvent,
)
from counterfoil.events.schemas import wire
from counterfoil.events.schemas.schema import (
    SCHEMA_CHARACTERS,
    Compatibility,
    Incompatibility,
    Schema,
)

if TYPE_CHECKING:
    from counterfoil.events.schemas.registry import Registry

Format = Literal["json", "avro", "protobuf"]
WRITERS: Final = 256
"""Size of a codec's cache of writers' schemas: more than a topic has versions. An evicted one is
fetched again."""
ROUNDS: Final = 20
"""Maximum attempts to register a schema while other processes register newer versions of the same
topic."""
_CODECS: Final = MappingProxyType(
    {
        "avro": ("counterfoil.events.schemas.avro", "AvroCodec"),
        "protobuf": ("counterfoil.events.schemas.protobuf", "ProtobufCodec"),
    }
)
_ENCODER: Final = msgspec.json.Encoder()
Read = Callable[[bytes], Any]


class Codec(Protocol):
    """Events of one topic to bytes and back."""

    def encode(self, value: Any, /) -> bytes:
        """An event as bytes.

        Raises:
            InvalidEvent: it does not fit the schema.
            EventsError: the topic was not declared to a log or a registry in this process.
        """
        ...

    def decode(self, data: bytes, /) -> Any:
        """An event from bytes.

        Raises:
            msgspec.DecodeError: they are no event of this topic; `UndecodableEvent` is one.
            RegistryUnavailable: their writer's schema can't be fetched at the moment.
        """
        ...

    def declare(self, topic: str, compatibility: Compatibility, registry: "Registry") -> None:
        """Register the schema, if there is one; afterwards events can be encoded and decoded.

        A schema that is already a version of the topic, the newest or an older one, is accepted, so
        that an application can be rolled back. A new one must be compatible with the newest.

        Raises:
            IncompatibleSchema: names the field and the rule.
            RegistryUnavailable: whether the schema was registered is unknown.
        """
        ...

    def attach(self, topic: str, registry: "Registry") -> None:
        """Use the schemas of a registry without registering one; it is asked only when needed."""
        ...


def codec_of(event: type, format_: Format) -> Codec:
    """The codec for events of a type.

    Raises:
        UnmappableType: the format can't represent the type; names the field.
        EventsError: the format's library is missing.
        ValueError: there is no such format.
    """
    if format_ == "json":
        return JsonCodec(event)
    if format_ not in _CODECS:
        raise ValueError(f"there is no format {format_!r}: json, avro and protobuf are known")
    module, name = _CODECS[format_]
    try:
        found: Codec = getattr(import_module(module), name)(event)
    except ModuleNotFoundError as error:
        raise EventsError(
            f"topics in {format_} need {error.name}", hint=f"install counterfoil[{format_}]"
        ) from error
    return found


class JsonCodec:
    """Events as JSON, in which a type is its own schema."""

    def __init__(self, event: type) -> None:
        self.encode: Callable[[Any], bytes] = _ENCODER.encode
        # Made once: analysing a type takes longer than decoding an event.
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(event).decode

    def declare(self, topic: str, compatibility: Compatibility, registry: "Registry") -> None:
        """Do nothing: JSON has no registered schema."""

    def attach(self, topic: str, registry: "Registry") -> None:
        """Do nothing: JSON has no registered schema."""


class RegisteredCodec(ABC):
    """The common base of formats with a registered schema: ids, cached schemas, and errors."""

    def __init__(self, schema: Schema) -> None:
        if len(schema.text) > SCHEMA_CHARACTERS:
            raise EventsError(f"a schema has at most {SCHEMA_CHARACTERS} characters")
        self.schema = schema
        self._registry: Registry | None = None
        self._topic = ""
        self._header = b""
        self._readers: dict[int, Read] = {}

    @abstractmethod
    def write(self, value: Any) -> bytes:
        """Encode an event, without its schema's id; raises `InvalidEvent`."""

    @abstractmethod
    def reader(self, writer: Schema) -> Read:
        """A decoder for a writer's events, which may raise any exception for invalid ones.

        Raises:
            UndecodableEvent: no event of this writer can be read.
        """

    @abstractmethod
    def incompatibilities(self, reader: Schema, writer: Schema) -> list[Incompatibility]:
        """Why one schema can't read what was written with the other; empty if it can."""

    def encode(self, value: Any) -> bytes:
        """An event as bytes, with its schema's id."""
        if not self._header:
            self._header = self._registered()
        return self._header + self.write(value)

    def decode(self, data: bytes) -> Any:
        """An event from bytes, written with any version of the schema."""
        schema_id = wire.schema_id_of(data)
        read = self._readers.get(schema_id) or self._learn(schema_id)
        try:
            return read(wire.content_of(data))
        except UndecodableEvent:
            raise
        except Exception as error:  # the libraries' errors have no common base
            raise UndecodableEvent(
                f"no event of schema {schema_id}: {type(error).__name__}: {error}"
            ) from error

    def declare(self, topic: str, compatibility: Compatibility, registry: "Registry") -> None:
        """Register the schema, unless it is registered already."""
        schema_id = registry.find(topic, self.schema)
        rounds = 0
        while schema_id is None:
            if rounds == ROUNDS:
                raise RegistryUnavailable(
                    f"topic {topic}: others register one schema after another"
                )
            rounds += 1
            latest = registry.latest(topic)
            if latest is not None:
                self._check(topic, compatibility, latest)
            schema_id = registry.register(topic, self.schema, after=latest)
        self._registry = registry
        self._header = wire.header(schema_id)
        self._readers = {schema_id: self.reader(self.schema)}

    def attach(self, topic: str, registry: "Registry") -> None:
        """Use the schemas of a registry."""
        self._topic, self._registry = topic, registry

    def _registered(self) -> bytes:
        """The header of a schema that another process has registered."""
        schema_id = None
        if self._registry is not None:
            schema_id = self._registry.find(self._topic, self.schema)
        if schema_id is None:
            raise EventsError(
                "the topic's schema has no id yet", hint="declare the topic to a log first"
            )
        return wire.header(schema_id)

    def _check(self, topic: str, compatibility: Compatibility, latest: Schema) -> None:
        if compatibility == "NONE":
            return
        hint = "give what is new a default, or begin a new topic; docs/schemas.md has the rules"
        if latest.type != self.schema.type:
            raise IncompatibleSchema(
                f"topic {topic}: was in {latest.type}, is in {self.schema.type}",
                hint="a topic keeps its format",
            )
        for direction, said, reader, writer in (
            ("BACKWARD", "does not read events of the last one", self.schema, latest),
            ("FORWARD", "writes what the last one can't read", latest, self.schema),
        ):
            if compatibility not in (direction, "FULL"):
                continue
            if found := self.incompatibilities(reader, writer):
                raise IncompatibleSchema(
                    f"topic {topic}: the new schema {said} ({compatibility}): "
                    + "; ".join(map(str, found)),
                    hint=hint,
                )

    def _learn(self, schema_id: int) -> Read:
        if self._registry is None:
            raise EventsError("the topic has no registry", hint="declare the topic to a log first")
        schema = self._registry.schema(schema_id)
        if schema is None:
            raise UndecodableEvent(f"the registry knows no schema {schema_id}")
        if schema.type != self.schema.type:
            raise UndecodableEvent(f"schema {schema_id} is in {schema.type}")
        if len(schema.text) > SCHEMA_CHARACTERS:
            raise UndecodableEvent(f"schema {schema_id} has over {SCHEMA_CHARACTERS} characters")
        try:
            read = self.reader(schema)
        except UndecodableEvent:
            raise
        except Exception as error:  # a registry may contain anything
            raise UndecodableEvent(f"schema {schema_id} can't be used: {error}") from error
        if len(self._readers) >= WRITERS:
            self._readers.pop(next(iter(self._readers)), None)
        self._readers[schema_id] = read
        return read
