"""Typed topics: a name, the type and format of its events, and the partitioning of their keys."""

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec

from counterfoil.events.errors import EventsError, InvalidEvent
from counterfoil.events.schemas import Codec, Compatibility, Format, Registry, codec_of, wire

T = TypeVar("T")
EVENT_BYTES: Final = 1_000_000
"""Limit on an event's key and value together, on both engines. Kafka brokers accept 1,048,588 by
default; a dead letter adds its error and traceback to the event, some 40,000 bytes at most."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""Names that Kafka accepts, with room left for the application's prefix. Keys of state, lanes and
positions are composed of a topic's name and more, so a name can't contain their separators."""
PLACES: Final = 16_384
"""Size of the cache from keys to partitions; takes some megabytes."""


@dataclass(frozen=True)
class Topic(Generic[T]):
    """A stream of events of one type, ordered within each key.

    Raises:
        UnmappableType: the format can't represent the type; names the field.
        EventsError: the name isn't valid on both engines, or the format's library is missing.
    """

    name: str
    type: type[T]
    partitions: int = field(default=4, kw_only=True)
    retention_seconds: int | None = field(default=None, kw_only=True)
    """How long events are kept; None keeps them for ever."""
    compacted: bool = field(default=False, kw_only=True)
    """Whether only the newest event of each key must be kept: Kafka then deletes older ones."""
    format: Format = field(default="json", kw_only=True)
    """In formats other than JSON, events carry the id of their schema in the registry."""
    compatibility: Compatibility = field(default="BACKWARD", kw_only=True)
    """The rule that a new schema must satisfy; ignored for JSON."""
    copies: "Topic[T] | None" = field(default=None, kw_only=True, repr=False)
    """The topic whose events this one contains, byte for byte."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EventsError(
                f"a topic can't be called {self.name!r}",
                hint="use 1 to 200 letters, digits, dots, hyphens and underscores, as Kafka does",
            )
        if self.format != "json":
            _ = self.codec  # raises UnmappableType at the declaration

    def beside(self, name: str) -> "Topic[T]":
        """A topic of one partition that holds some of this one's events unchanged, for retries."""
        return Topic(name, self.type, partitions=1, format=self.format, copies=self)

    def encode(self, value: T) -> bytes:
        """The event as bytes.

        Raises:
            InvalidEvent: it does not fit the topic's schema.
            TypeError: it is not of the topic's type.
        """
        if not isinstance(value, self._class):
            raise TypeError(
                f"events of {self.name} are {self._class.__name__}, not {type(value).__name__}"
            )
        return self.codec.encode(value)

    def decode(self, data: bytes) -> T:
        """The event from bytes.

        Raises:
            msgspec.DecodeError: they are no event of this type.
            RegistryUnavailable: their writer's schema can't be fetched at the moment.
        """
        return self.codec.decode(data)

    def to_json(self, data: bytes) -> bytes:
        """An event's bytes as readable JSON; a JSON topic's are returned unchecked.

        Raises:
            msgspec.DecodeError, RegistryUnavailable: as `decode` does.
        """
        return data if self.format == "json" else msgspec.json.encode(self.decode(data))

    def from_json(self, data: bytes) -> bytes:
        """The bytes of an event written as JSON by hand, or already in the topic's format.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, InvalidEvent: it is no event of this topic.
        """
        if self.format == "json" or data.startswith(wire.MAGIC):  # with which no JSON begins
            self.decode(data)
            return data
        return self.encode(msgspec.json.decode(data, type=self.type))

    def partition_of(self, key: str) -> int:
        """The partition of a key's events."""
        return partition_of(key, self.partitions)

    @cached_property
    def _class(self) -> "type[Any]":
        """The class to check events against; `object` if the type is no class (a union, say)."""
        kind: Any = self.type
        return kind if isinstance(kind, type) else object

    @cached_property
    def codec(self) -> Codec:
        """Encodes and decodes events; caches the schemas that this process has met."""
        return codec_of(self.type, self.format) if self.copies is None else self.copies.codec


AnyTopic = Topic[Any]


def declare_schemas(topics: Iterable[AnyTopic], registry: Registry) -> None:
    """Register the topics' schemas, so that this process can encode and decode their events.

    Raises:
        IncompatibleSchema: a schema is incompatible with the topic's last one; names the field and
            the rule.
        RegistryUnavailable: the registry can't be reached.
    """
    for topic in topics:
        if topic.copies is None:
            topic.codec.declare(topic.name, topic.compatibility, registry)


def attach_schemas(topics: Iterable[AnyTopic], registry: Registry) -> None:
    """Let this process use the schemas in a registry without registering any.

    For tools that inspect: the registry is asked only when a schema is needed.
    """
    for topic in topics:
        if topic.copies is None:
            topic.codec.attach(topic.name, registry)


def check_sendable(topic: AnyTopic, key: str, value: bytes) -> None:
    """Check that both engines accept an event, before anything depends on it.

    Raises:
        InvalidEvent: the key is not UTF-8 or has a NUL, or key and value exceed `EVENT_BYTES`.
        TypeError: the key is not a `str`.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users' programs
        raise TypeError(f"an event of {topic.name} has the key {key!r}: keys are text, as str(...)")
    try:
        size = len(value) + len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"an event of {topic.name} has a key that is no text: {error}") from None
    if "\0" in key:
        raise InvalidEvent(f"an event of {topic.name} has a key with a NUL in it")
    if size > EVENT_BYTES:
        raise InvalidEvent(
            f"an event of {topic.name} has {size:,} bytes, more than {EVENT_BYTES:,}",
            hint="keep large content elsewhere and send where it is",
        )


def no_topic(name: str) -> EventsError:
    """The error for a topic that the application doesn't declare."""
    return EventsError(f"no topic {name!r}", hint="declare it with app.topic(...)")


@lru_cache(PLACES)
def partition_of(key: str, partitions: int) -> int:
    """CRC-32 of the key modulo the partitions, as librdkafka's default partitioner does."""
    return zlib.crc32(key.encode()) % partitions
