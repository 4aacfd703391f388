"""Read-only view of topics and their consumers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

import msgspec

from counterfoil.events.log import EventLog
from counterfoil.events.messages import Lag, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.topics import AnyTopic

READ_BATCH: Final = 500
IDLE_SECONDS: Final = 2.0
"""After this long without a record, a topic counts as read to its end: on Kafka its last offsets
may be transaction markers, which no reader gets."""
REST_SECONDS: Final = 0.02


class Progress(msgspec.Struct, frozen=True):
    """A consumer's progress in one partition, between two measurements."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int
    lag: int
    per_second: float
    """Records that it has handled."""
    arriving_per_second: float
    catch_up_seconds: float | None
    """Time until the lag is 0 at these rates; None if it is not decreasing."""


class TopicPartition(msgspec.Struct, frozen=True):
    """One partition of a topic."""

    partition: int
    end: int
    weight: float
    """Its share of the topic's records, from 0 to 1."""


class TopicView(msgspec.Struct, frozen=True):
    """A topic and its partitions."""

    name: str
    records: int
    """The sum of the partitions' ends; on Kafka, transaction markers count too."""
    skew: float
    """The largest partition divided by the mean; 1 if even, 0 if empty."""
    partitions: list[TopicPartition]


def lag(log: EventLog, store: PipelineStore) -> list[Lag]:
    """Every consumer's distance from the end of each partition."""
    consumers = store.consumers()
    ends = {topic: log.ends(topic) for topic in {topic for _, topic, _, _ in consumers}}
    found: list[Lag] = []
    for consumer, topic, partition, committed in consumers:
        end = ends[topic].get(partition, 0)
        found.append(Lag(consumer, topic, partition, committed, end, end - committed))
    return found


def progress(before: Sequence[Lag], after: Sequence[Lag], seconds: float) -> list[Progress]:
    """The change between two measurements that were `seconds` apart."""
    earlier = {(each.group, each.topic, each.partition): each for each in before}
    found: list[Progress] = []
    for now in after:
        then = earlier.get((now.group, now.topic, now.partition), now)
        handled = (now.committed - then.committed) / seconds
        arriving = (now.end - then.end) / seconds
        catch_up = None
        if now.lag <= 0:
            catch_up = 0.0
        elif handled > arriving:
            catch_up = now.lag / (handled - arriving)
        found.append(
            Progress(
                now.group,
                now.topic,
                now.partition,
                now.committed,
                now.end,
                now.lag,
                handled,
                arriving,
                catch_up,
            )
        )
    return found


def topics(log: EventLog, declared: Sequence[AnyTopic]) -> list[TopicView]:
    """The declared topics with the weight of each partition."""
    found: list[TopicView] = []
    for topic in declared:
        ends = dict.fromkeys(range(topic.partitions), 0) | log.ends(topic.name)
        total = sum(ends.values())
        found.append(
            TopicView(
                topic.name,
                total,
                max(ends.values()) * len(ends) / total if total else 0.0,
                [
                    TopicPartition(number, end, end / total if total else 0.0)
                    for number, end in sorted(ends.items())
                ],
            )
        )
    return found


def read(log: EventLog, topic: AnyTopic, positions: Mapping[int, int]) -> Iterator[Record]:
    """The records of a topic from `positions` to its current end, in each partition's order.

    Partitions without a position are left out. No stored position is moved, and records that
    retention has deleted are skipped.
    """
    begins, ends = log.begins(topic), log.ends(topic.name)
    # A partition that is not wanted is read from its end, so it yields nothing.
    begin = {
        number: max(positions.get(number, end), begins.get(number, 0))
        for number, end in ends.items()
    }
    left = {number for number in positions if begin.get(number, 0) < ends.get(number, 0)}
    idle_since = time.monotonic()
    with closing(log.reader([topic], lambda _: begin)) as reader:
        while left and time.monotonic() - idle_since < IDLE_SECONDS:
            batches = reader.fetch(READ_BATCH)
            if not batches:
                time.sleep(REST_SECONDS)
            for batch in batches:
                idle_since = time.monotonic()
                if batch.partition in left:
                    end = ends[batch.partition]
                    yield from (record for record in batch.records if record.offset < end)
                    if batch.end >= end:
                        left.discard(batch.partition)
