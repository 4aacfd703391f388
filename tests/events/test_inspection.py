"""Topics and consumers seen from outside, on both engines."""

import time
from collections.abc import Sequence

import msgspec
import pytest

from counterfoil.events import EventLog, Events, Lag, Message, Topic, progress, read, topics

PATIENCE = 30.0


class Paid(msgspec.Struct, frozen=True):
    id: int


PAID = Topic("paid", Paid, partitions=2)


def now_us() -> int:
    return time.time_ns() // 1_000


def feed(events: Events, numbers: Sequence[int]) -> EventLog:
    log = events.log()
    log.declare([PAID])
    appender = log.appender("test", 1)
    messages = [
        Message(number, "paid", f"k{number % 5}", b'{"id":%d}' % number, {}, now_us())
        for number in numbers
    ]
    appender.append(messages, appender.position + 1)
    appender.close()
    seen = time.monotonic() + PATIENCE
    while not {each.event_id for each in read(log, PAID, everything(log))} >= set(numbers):
        assert time.monotonic() < seen, "Kafka shows what is committed a moment after the commit"
    return log


def everything(log: EventLog) -> dict[int, int]:
    return dict.fromkeys(log.ends("paid"), 0)


def test_a_topic_is_read_from_an_offset_or_a_moment_to_its_end(events: Events) -> None:
    log = feed(events, range(20))
    time.sleep(0.01)  # on Kafka, times are whole milliseconds
    moment = now_us()
    feed(events, range(20, 30))
    found = list(read(log, PAID, everything(log)))
    assert sorted(each.event_id for each in found) == list(range(30))
    for number in (0, 1):
        offsets = [each.offset for each in found if each.partition == number]
        assert offsets == sorted(offsets)
    late = read(log, PAID, log.offsets_at(PAID, moment))
    assert sorted(each.event_id for each in late) == list(range(20, 30))
    one = [each for each in found if each.partition == 1]
    assert list(read(log, PAID, {1: one[2].offset})) == one[2:]
    assert list(read(log, PAID, log.offsets_at(PAID, now_us() + 60_000_000))) == []


def test_topics_are_shown_with_the_weight_of_each_partition(events: Events) -> None:
    log = events.log()
    log.declare([PAID])
    (empty,) = topics(log, [PAID])
    assert (empty.records, empty.skew) == (0, 0)
    (found,) = topics(feed(events, range(20)), [PAID])
    assert found.records >= 20
    assert sum(each.weight for each in found.partitions) == pytest.approx(1)
    largest = max(each.end for each in found.partitions)
    assert found.skew == pytest.approx(largest / (found.records / 2))


def test_what_is_handled_faster_than_it_arrives_is_caught_up_with() -> None:
    def look(committed: int, end: int) -> Lag:
        return Lag("ledger", "paid", 0, committed, end, end - committed)

    (found,) = progress([look(100, 1_000)], [look(300, 1_050)], 2.0)
    assert (found.per_second, found.arriving_per_second) == (100.0, 25.0)
    assert found.catch_up_seconds == pytest.approx(750 / 75)
    (falling,) = progress([look(100, 1_000)], [look(110, 1_100)], 2.0)
    assert falling.catch_up_seconds is None
    (done,) = progress([look(100, 1_000)], [look(1_000, 1_000)], 2.0)
    assert done.catch_up_seconds == 0
    (new,) = progress([], [look(5, 10)], 2.0)
    assert (new.per_second, new.catch_up_seconds) == (0, None)
