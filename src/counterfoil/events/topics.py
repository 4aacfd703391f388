"""Typed topics: a name, the type and format of its events, and how a key finds its partition."""

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
"""Of an event's key and value together, on either engine. Brokers of Kafka take 1,048,588 in their
default, and an event that no handler could take travels on with its error and traceback, at most
some 40,000 bytes more."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""What Kafka takes, which leaves room for the application's name before it. Keys of state, lanes
and positions are joined from topics and what is in them: no topic's name may hold a joint."""
PLACES: Final = 16_384
"""Partitions of keys that are remembered: keys come again, and some megabytes are little."""


@dataclass(frozen=True)
class Topic(Generic[T]):
    """A stream of events of one type, in order within a key.

    Raises:
        UnmappableType: the format can't hold the type; says the field.
        EventsError: the name is none that both engines take, or the format's library is missing.
    """

    name: str
    type: type[T]
    partitions: int = field(default=4, kw_only=True)
    retention_seconds: int | None = field(default=None, kw_only=True)
    """How long events are kept; None for the engine's default, which is for ever if embedded."""
    compacted: bool = field(default=False, kw_only=True)
    """Whether only the newest event of a key must be kept: Kafka then forgets the older ones."""
    format: Format = field(default="json", kw_only=True)
    """Other than JSON, events carry the id of a schema that a registry keeps."""
    compatibility: Compatibility = field(default="BACKWARD", kw_only=True)
    """What a new schema must keep to; of no account to JSON."""
    copies: "Topic[T] | None" = field(default=None, kw_only=True, repr=False)
    """The topic whose events, byte for byte, are in this one."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EventsError(
                f"a topic can't be called {self.name!r}",
                hint="use 1 to 200 letters, digits, dots, hyphens and underscores, as Kafka does",
            )
        if self.format != "json":
            _ = self.codec  # what can't be mapped is refused where it is declared

    def beside(self, name: str) -> "Topic[T]":
        """A topic of one partition for some of this one's events as they are, to be tried again."""
        return Topic(name, self.type, partitions=1, format=self.format, copies=self)

    def encode(self, value: T) -> bytes:
        """The event as bytes.

        Raises:
            InvalidEvent: it does not fit the topic's schema.
            TypeError: it is of another type, which the topic's readers could do nothing with.
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
            RegistryUnavailable: the schema that they were written with can't be had at the moment.
        """
        return self.codec.decode(data)

    def to_json(self, data: bytes) -> bytes:
        """An event's bytes as JSON, for people; JSON is left as it is, whatever is in it.

        Raises:
            msgspec.DecodeError, RegistryUnavailable: as `decode` does.
        """
        return data if self.format == "json" else msgspec.json.encode(self.decode(data))

    def from_json(self, data: bytes) -> bytes:
        """The bytes of an event that people wrote as JSON, or that are in the topic's own format.

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
        """What events are instances of, as far as that can be asked: a union, say, can't be."""
        kind: Any = self.type
        return kind if isinstance(kind, type) else object

    @cached_property
    def codec(self) -> Codec:
        """What encodes and decodes; it knows the schemas that this process has met."""
        return codec_of(self.type, self.format) if self.copies is None else self.copies.codec


AnyTopic = Topic[Any]


def declare_schemas(topics: Iterable[AnyTopic], registry: Registry) -> None:
    """Register the schemas of topics that have one, for this process to encode and decode.

    Raises:
        IncompatibleSchema: a schema breaks with the topic's last one; names the field and the rule.
        RegistryUnavailable: the registry can't be reached.
    """
    for topic in topics:
        if topic.copies is None:
            topic.codec.declare(topic.name, topic.compatibility, registry)


def attach_schemas(topics: Iterable[AnyTopic], registry: Registry) -> None:
    """Let this process read what a registry knows, and write what is registered already.

    For those who look on: nothing is asked before it is needed, and nothing is registered.
    """
    for topic in topics:
        if topic.copies is None:
            topic.codec.attach(topic.name, registry)


def check_sendable(topic: AnyTopic, key: str, value: bytes) -> None:
    """See that both engines take an event, before anything is promised that depends on it.

    Raises:
        InvalidEvent: the key is no text that a database keeps, or key and value are too large.
        TypeError: the key is no text at all.
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
    """What is said of an event whose topic the application doesn't declare."""
    return EventsError(f"no topic {name!r}", hint="declare it with app.topic(...)")


@lru_cache(PLACES)
def partition_of(key: str, partitions: int) -> int:
    """CRC-32 of the key modulo the partitions, as librdkafka's default partitioner does."""
    return zlib.crc32(key.encode()) % partitions
