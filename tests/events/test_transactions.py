"""Transactions seen from outside: open ones, their ends, and who is fenced."""

import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import cast

import msgspec
import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    EmbeddedEvents,
    KafkaEvents,
    Message,
    NoSuchTransaction,
    Topic,
    Transaction,
)
from counterfoil.events.kafka_rights import Right, needed
from counterfoil.kafka_access import KafkaAccess

PATIENCE = 30.0


class Paid(msgspec.Struct, frozen=True):
    id: int


PAID = Topic("paid", Paid, partitions=2)
PRODUCER = """
import pickle
import sys
from counterfoil.events import KafkaEvents

access = pickle.load(sys.stdin.buffer)
log = KafkaEvents(access, "", None, sys.argv[1]).log()
appender = log.appender("bank", 1)
producer = appender._producer
producer.begin_transaction()
producer.produce(f"{sys.argv[1]}.paid", b'{"id":1}', b"k", 1)
producer.flush(10)
print("open", flush=True)
sys.stdin.readline()
try:
    producer.commit_transaction(10)
except Exception as error:
    print(error.args[0].name(), flush=True)
else:
    print("committed", flush=True)
"""


def now_us() -> int:
    return time.time_ns() // 1_000


class Kafka:
    """An application on Kafka, whose topic has two partitions."""

    def __init__(self, access: KafkaAccess, application: str) -> None:
        self.access = access
        self.application = application
        self.log = KafkaEvents(access, "", None, application).log()
        self.log.declare([PAID])
        self.transactions = KafkaEvents(access, "", None, application).transactions()

    def bank(self) -> Transaction | None:
        """The transaction of the source `bank`."""
        found = {each.id: each for each in self.transactions.newest(now_us())}
        return found.get(f"{self.application}.bank")

    def until(self, state: str) -> Transaction:
        """The transaction of `bank`, once it is in this state."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.bank()) is None or found.state != state:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def read(self) -> list[int]:
        """The events that consumers see, once there are some."""
        found: list[int] = []
        deadline = time.monotonic() + PATIENCE
        with closing(self.log.reader([PAID], lambda _: {})) as reader:
            while not found:
                found += [each.event_id for batch in reader.fetch(100) for each in batch.records]
                assert time.monotonic() < deadline
        return found

    @contextmanager
    def producer(self) -> Iterator["subprocess.Popen[str]"]:
        """A process that has begun a transaction, and commits it when it is told to."""
        process = subprocess.Popen(
            [sys.executable, "-c", PRODUCER, self.application],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(self.access, cast("TextIOWrapper", process.stdin).buffer)
        process.stdin.flush()
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()
        process.wait()


SECURED_TOO = pytest.mark.parametrize("kafka", ["kafka", "secured-kafka"], indirect=True)


@pytest.fixture
def kafka(
    request: pytest.FixtureRequest,
    engine: Callable[[str], RunningEngine],
    user_of_kafka: Callable[[str, Iterable[Right]], KafkaAccess],
) -> Kafka:
    application = f"test-{uuid.uuid4().hex}"
    if getattr(request, "param", "kafka") == "kafka":
        return Kafka(KafkaAccess(engine("kafka").address), application)
    rights = [*needed(application), Right("cluster", "kafka-cluster", "Alter")]
    return Kafka(user_of_kafka(application, rights), application)


def test_a_stopped_producer_is_shown_with_its_age_and_fenced_by_a_new_term(kafka: Kafka) -> None:
    with kafka.producer() as process:
        process.send_signal(signal.SIGSTOP)
        first = kafka.until("open")
        assert first.partitions == [f"{kafka.application}.paid/1"]
        assert first.timeout_seconds == 30
        second = kafka.until("open")
        assert first.age_seconds is not None
        assert second.age_seconds is not None
        assert 0 < second.age_seconds - first.age_seconds < second.age_seconds
        assert kafka.transactions.hanging(now_us(), 0) == [], "its coordinator knows of it"
        with closing(kafka.log.appender("bank", 2)) as appender:
            assert kafka.until("empty").producer_epoch != first.producer_epoch
            process.send_signal(signal.SIGCONT)
            assert commit(process) == "_FENCED"
            appender.append([Message(2, "paid", "k", b'{"id":2}', {}, 1)], 2)
        assert kafka.until("committed").age_seconds is None
    assert kafka.read() == [2], "nothing of the term that was fenced"


def test_what_a_killed_producer_left_open_is_aborted_by_the_next_term(kafka: Kafka) -> None:
    with kafka.producer() as process:
        kafka.until("open")
        process.kill()
        process.wait()
        assert kafka.until("open").partitions, "for as long as nobody ends it"
        with closing(kafka.log.appender("bank", 2)) as appender:
            kafka.until("empty")
            appender.append([Message(2, "paid", "k", b'{"id":2}', {}, 1)], 2)
    assert kafka.read() == [2]


@SECURED_TOO
def test_an_open_transaction_is_aborted_by_its_id_and_its_producer_fenced(kafka: Kafka) -> None:
    identity = f"{kafka.application}.bank"
    with pytest.raises(NoSuchTransaction, match="no open transaction"):
        kafka.transactions.abort(identity)
    with kafka.producer() as process:
        kafka.until("open")
        kafka.transactions.abort(identity)
        kafka.until("empty")
        assert commit(process) == "_FENCED"
    with closing(kafka.log.appender("bank", 2)) as appender:
        appender.append([Message(2, "paid", "k", b'{"id":2}', {}, 1)], 2)
    assert kafka.read() == [2]


@SECURED_TOO
def test_what_no_coordinator_knows_of_is_found_and_its_partition_freed(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a broker that has forgotten a transaction (KAFKA-20734)."""
    with kafka.producer():
        kafka.until("open")
        with monkeypatch.context() as forgetful:
            forgetful.setattr(kafka.transactions, "_under_way", lambda _: set())
            assert kafka.transactions.hanging(now_us(), 3_600) == [], "not idle for long enough"
            (hanging,) = kafka.transactions.hanging(now_us(), 0)
        assert (hanging.partition, hanging.first_offset) == ("paid/1", 0)
        kafka.transactions.abort_hanging(hanging)
        with pytest.raises(NoSuchTransaction, match="any more"):
            kafka.transactions.abort_hanging(hanging)
    with closing(kafka.log.appender("other", 1)) as appender:
        appender.append([Message(2, "paid", "k", b'{"id":2}', {}, 1)], 2)
    assert kafka.read() == [2], "readers go on"


def test_the_holder_of_sqlites_write_lock_is_named(
    embedded: EmbeddedEvents, tmp_path: Path
) -> None:
    transactions = embedded.transactions()
    database = embedded.service("bank")
    database.create(["CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY)"])
    assert transactions.newest(now_us()) == []
    with database.transaction():
        (found,) = transactions.newest(now_us())
        assert (found.id, found.state) == ("service-bank.db", "open")
        assert f"process {os.getpid()} (" in found.holder
        with pytest.raises(NoSuchTransaction, match="SQLite"):
            transactions.abort(found.id)
        database.execute("INSERT INTO paid VALUES (1)")
    assert transactions.newest(now_us()) == []
    assert database.execute("SELECT id FROM paid").fetchall() == [(1,)], "the lock was left alone"
    assert transactions.hanging(now_us(), 0) == []


def commit(process: "subprocess.Popen[str]") -> str:
    """Tell a producer to commit; returns how that went."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("commit\n")
    process.stdin.flush()
    return process.stdout.readline().strip()
