"""What readers of a log promise, on either engine: how much at once, and how far they are."""

import time
from contextlib import closing
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError

from counterfoil.events import EmbeddedEvents, Events, Message, Topic
from counterfoil.events.embedded import RETRIES
from counterfoil.events.kafka_client import looker

from .test_exactly_once import PATIENCE_SECONDS, append


class Picture(msgspec.Struct, frozen=True):
    content: bytes


PICTURES = Topic("pictures", Picture, partitions=2)
SIZE = 20_000
FETCHED = 200_000


def test_of_large_events_fewer_are_fetched_at_once(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("embedded", "kafka_reader"):
        monkeypatch.setattr(f"counterfoil.events.{module}.FETCH_BYTES", FETCHED)
    log = events.log()
    log.declare([PICTURES])
    for first in range(0, 60, 4):
        append(
            log,
            [
                Message(number, "pictures", f"k{number % 10}", b"x" * SIZE, {}, 1)
                for number in range(first, first + 4)
            ],
        )
    reader = log.reader([PICTURES], lambda _: {})
    fetched: list[list[int]] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(map(len, fetched)) < 60:
        batches = reader.fetch(1_000)
        fetched.append([record.event_id for batch in batches for record in batch.records])
        assert time.monotonic() < deadline
    reader.close()
    assert sorted(number for some in fetched for number in some) == list(range(60))
    largest = max(map(len, fetched)) * SIZE
    # What is decoded or handed over together is a transaction's events of a partition.
    assert FETCHED / 2 < largest <= FETCHED + 2 * 4 * SIZE


def test_a_reader_has_reached_the_ends_once_it_was_given_all(events: Events) -> None:
    log = events.log()
    log.declare([PICTURES])
    reader = log.reader([PICTURES], lambda _: {})
    for first in (0, 5):
        numbers = range(first, first + 5)
        append(log, [Message(each, "pictures", f"k{each}", b"x", {}, 1) for each in numbers])
        given, ends = 0, dict[int, int]()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while given < 5 or dict(reader.reached("pictures")) != ends:
            given += sum(len(batch.records) for batch in reader.fetch(1_000))
            ends = log.ends("pictures")  # which grow when a transaction's marker is written
            assert time.monotonic() < deadline
        assert given == 5
    reader.rewind()
    assert not any(reader.reached("pictures").values())
    reader.close()


class Hasty:
    """A consumer that is told at first that its partition is empty, as a new leader may tell."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._told = False

    def poll(self, patience_seconds: float) -> Any:
        if self._told:
            return self._consumer.poll(patience_seconds)
        self._told = True
        return End()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class End:
    def error(self) -> Any:
        return KafkaError(KafkaError._PARTITION_EOF)

    def offset(self) -> int:
        return 0


def test_a_term_begins_where_the_last_one_ended_though_an_early_end_is_told(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = events.log()
    log.declare([PICTURES])
    append(log, [Message(1, "pictures", "k", b"x", {}, 1)])
    monkeypatch.setattr("counterfoil.events.kafka.looker", lambda its: Hasty(looker(its)))
    with closing(log.appender("test", 2)) as appender:
        assert appender.position == 1, "or it would all be appended once more"


def test_what_is_to_be_tried_again_is_read_though_events_never_end(
    embedded: EmbeddedEvents,
) -> None:
    log = embedded.log()
    retries = PICTURES.beside("retries")
    log.declare([PICTURES, retries])
    append(log, [Message(number, "pictures", "k", b"x", {}, 1) for number in range(100)])
    append(log, [Message(1_000, "retries", "k", b"x", {}, 1)])
    reader = log.reader([PICTURES, retries], lambda _: {})
    fetches = [{batch.topic for batch in reader.fetch(1)} for _ in range(2 * RETRIES)]
    assert all("pictures" in found for found in fetches)
    assert sum("retries" in found for found in fetches) == 1
