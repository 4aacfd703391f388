"""A broker that dies the moment it has acknowledged a commit takes none of it back."""

import time
import uuid
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import KafkaEvents, LogUnavailable, Message, Topic
from counterfoil.events.kafka import KafkaAppender, KafkaLog

ROUNDS = 3
BATCH = 10
PATIENCE = 60.0


class Paid(msgspec.Struct):
    id: int


PAID = Topic("paid", Paid, partitions=4)


def messages(first: int) -> list[Message]:
    """Ten events, over all partitions."""
    value = b'{"id":1}'
    return [Message(n, "paid", f"k{n}", value, {}, 1) for n in range(first, first + BATCH)]


def next_term(log: KafkaLog) -> KafkaAppender:
    """A term of a broker that has just started again, once it gives one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return log.appender("source", 1)
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise


@pytest.mark.timeout(300)
def test_what_was_committed_stays_committed(engine: Callable[[str], RunningEngine]) -> None:
    kafka = engine("kafka")
    log = KafkaEvents(kafka.address, "", None, f"test-{uuid.uuid4().hex}").log()
    log.declare([PAID])
    sent = 0
    for _ in range(ROUNDS):
        with closing(next_term(log)) as appender:
            assert appender.position == sent, "the last term's commit"
            for _ in range(3):
                appender.append(messages(sent), sent + BATCH)
                sent += BATCH
            kafka.kill()
        kafka.start()
    with closing(next_term(log)) as appender:
        assert appender.position == sent
    found: list[int] = []
    deadline = time.monotonic() + PATIENCE
    with closing(log.reader([PAID], lambda _: {})) as reader:
        while len(found) < sent and time.monotonic() < deadline:
            found += [record.event_id for batch in reader.fetch(100) for record in batch.records]
    assert sorted(found) == list(range(sent))
