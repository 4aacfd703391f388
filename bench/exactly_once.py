"""Exactly once on Kafka while everything dies: `python bench/exactly_once.py`.

A stateless pipeline handles payments in a process that is killed (SIGKILL) again and again, and so
is the broker. Afterwards a plain consumer, which shares no code with what wrote, reads what is
committed: every payment must be there once, and the sum right to the cent.

With `--sink postgres` the payments go from Kafka into a table of PostgreSQL instead, in the commit
that moves the pipeline's positions. Nothing in the table keeps a payment from being there twice,
and a plain connection reads it.

The processor is killed at any moment, most likely while it waits for a commit; a restart begins a
new term. The proof of the whole application is `counterfoil prove`; this is of one pipeline alone,
with more payments.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, cast

import cyclopts
import msgspec
from rich.console import Console

from counterfoil.engines import start
from counterfoil.events import (
    Context,
    EmbeddedEvents,
    KafkaEvents,
    LogPipelineRunner,
    LogUnavailable,
    Message,
    Pipeline,
    PipelineRunner,
    StatelessContext,
    StoreUnavailable,
    TermOver,
    Topic,
)

COMMIT_LIMIT: Final = 500
STEP: Final = "step"
QUIET_SECONDS: Final = 2.0
"""Without progress, before the output is read: what was handled may have been handled again."""
PATIENCE_SECONDS: Final = 120.0
"""Without any progress: longer than a broker takes to come back on a busy machine."""
TABLE: Final = "CREATE TABLE IF NOT EXISTS priced (id INTEGER NOT NULL, amount INTEGER NOT NULL)"
"""Without a key: it would refuse the doubles that are looked for."""
Sink = Literal["kafka", "postgres"]
Positive = Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))]
NotNegative = Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=0))]
console = Console(stderr=True)
app = cyclopts.App(help=__doc__)


class Payment(msgspec.Struct, frozen=True):
    """What comes in, and goes out with a fee."""

    id: int
    amount: int
    fee: int = 0


PAYMENTS: Final = Topic("payments", Payment)
PRICED: Final = Topic("priced", Payment)


@app.command
def process(servers: str, postgres: str, application: str, sink: Sink) -> None:
    """Run the pipeline for ever, term after term; a line for each step."""
    events = KafkaEvents(servers, postgres, os.environ.get("PGPASSWORD"), application)
    with tempfile.TemporaryDirectory(prefix="processor-") as folder:
        begin = to_postgres if sink == "postgres" else to_kafka
        while True:
            try:
                with closing(begin(events, Path(folder))) as runner:
                    while True:
                        print(STEP, runner.step(), flush=True)
            except (TermOver, LogUnavailable, StoreUnavailable) as error:
                print(f"# {error}", file=sys.stderr, flush=True)
                time.sleep(0.2)


def to_kafka(events: KafkaEvents, folder: Path) -> LogPipelineRunner:
    """A term of the pipeline that ends in a topic."""
    log = events.log()
    log.declare([PAYMENTS, PRICED])
    pipeline = Pipeline("price", PAYMENTS, price, stateless=True, commit_limit=COMMIT_LIMIT)
    return LogPipelineRunner(log, EmbeddedEvents(folder).pipelines(), pipeline, now_us)


def to_postgres(events: KafkaEvents, _: Path) -> PipelineRunner:
    """The pipeline that ends in a table."""
    store = events.pipelines()
    store.database.create([TABLE])
    pipeline = Pipeline("insert", PAYMENTS, insert, batch=True, commit_limit=COMMIT_LIMIT)
    return PipelineRunner(events.log(), store, pipeline, now_us)


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


def price(event: Payment, context: StatelessContext) -> None:
    """Add the fee."""
    priced = Payment(event.id, event.amount, event.amount // 100)
    context.emit(PRICED, priced, key=str(event.id % 1_000))


def insert(pairs: list[tuple[Payment, Context]]) -> None:
    """Put payments into the table."""
    for event, context in pairs:
        context.execute("INSERT INTO priced VALUES (?, ?)", (event.id, event.amount))


class Processor:
    """The process that is killed; it counts what its successive lives have handled."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, __file__, "process", *arguments]
        self.handled = 0
        self.kills = 0
        self.steps = 0
        self.begin()

    def begin(self) -> None:
        """Start it."""
        # Whoever ends this script ends what it started, too.
        command = ["setpriv", "--pdeathsig", "KILL", *self._command]
        self.steps = 0
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def kill(self) -> None:
        """Kill it, as the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()
        self.kills += 1

    def _read(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            word, _, number = line.partition(" ")
            if word == STEP:  # the rest is what its log says
                self.handled += int(number)
                self.steps += int(number) > 0


def plain_read(servers: str, topic: str) -> Iterator[dict[str, int]]:
    """What is committed, by a plain consumer, up to the ends of all partitions."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"check-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    with closing(consumer):
        partitions = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        while partitions:
            for message in consumer.consume(1_000, 30.0):
                error = message.error()
                if error is None:
                    yield json.loads(cast("bytes", message.value()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    partitions.discard(message.partition())
                else:
                    raise SystemExit(f"the checking consumer: {error}")


def plain_select(postgres: str, schema: str) -> Iterator[dict[str, int]]:
    """What is committed, by a plain connection."""
    import psycopg
    from psycopg import sql

    table = sql.Identifier(schema, "priced")
    with psycopg.connect(postgres, password=os.environ["PGPASSWORD"]) as connection:
        for number, amount in connection.execute(
            sql.SQL("SELECT id, amount FROM {}").format(table)
        ):
            yield {"id": number, "amount": amount}


def append(log_of: KafkaEvents, payments: int) -> int:
    """Put the payments into the log; returns their sum."""
    log = log_of.log()
    log.declare([PAYMENTS, PRICED])
    with closing(log.appender("payments", 1)) as appender:
        for first in range(0, payments, 10_000):
            some = range(first, min(first + 10_000, payments))
            appender.append(
                [
                    Message(
                        number,
                        "payments",
                        str(number % 1_000),
                        PAYMENTS.encode(Payment(number, amount_of(number))),
                        {},
                        1,
                    )
                    for number in some
                ],
                some.stop,
            )
    return sum(amount_of(number) for number in range(payments))


def amount_of(payment: int) -> int:
    """Some minor units, never the same for neighbours."""
    return payment * 7_919 % 100_003


@app.default
def main(
    *,
    payments: Positive = 200_000,
    kill_every: float = 3.0,
    broker_kills: NotNegative = 2,
    sink: Sink = "kafka",
) -> int:
    """Kill, and count.

    Parameters
    ----------
    payments
        How many there are.
    kill_every
        Seconds of a processor's life, once it has committed something.
    broker_kills
        How often the broker is killed, evenly over the payments.
    sink
        Where the payments go: into a topic, or into a table of PostgreSQL.
    """
    application = f"once-{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory(prefix="once-") as folder,
        start("kafka", Path(folder) / "kafka") as kafka,
        ExitStack() as stack,
    ):
        uri = ""
        read = partial(plain_read, kafka.address, f"{application}.priced")
        if sink == "postgres":
            postgres = stack.enter_context(start("postgres", Path(folder) / "postgres"))
            os.environ["PGPASSWORD"] = postgres.secret
            schema = f"{application}.{KafkaEvents.PIPELINES}"
            uri = postgres.address
            read = partial(plain_select, uri, schema)
        total = append(KafkaEvents(kafka.address, "", None, application), payments)
        processor = Processor(kafka.address, uri, application, sink)
        broker = 0
        born = moved = checked = time.monotonic()
        handled = 0
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            if processor.handled > handled:
                handled, moved, checked = processor.handled, now, now
            elif handled >= payments and now - checked > QUIET_SECONDS:
                found = list(read())
                if len(found) >= payments:
                    break
                checked = time.monotonic()
            if now - moved > PATIENCE_SECONDS:
                raise SystemExit(f"no progress after {handled} of {payments}")
            if broker < broker_kills and handled > payments * (broker + 1) // (broker_kills + 1):
                console.print(f"{handled} handled: the broker is killed")
                kafka.kill()
                kafka.start()
                broker += 1
                moved = time.monotonic()
            if processor.steps and now - born > kill_every and handled < payments:
                console.print(f"{handled} handled: the processor is killed")
                processor.kill()
                processor.begin()
                born = time.monotonic()
        processor.kill()
        found = list(read())
    times = Counter(event["id"] for event in found)
    verdict = {
        "payments": payments,
        "in_output": len(found),
        "missing": sum(number not in times for number in range(payments)),
        "more_than_once": sum(count > 1 for count in times.values()),
        "sum_is_right": sum(event["amount"] for event in found) == total,
        "processor_kills": processor.kills - 1,
        "broker_kills": broker,
        "handled_in_all": handled,  # what was handled and not committed is handled again
    }
    print(json.dumps(verdict))
    return int(verdict["missing"] + verdict["more_than_once"] > 0 or not verdict["sum_is_right"])


if __name__ == "__main__":
    sys.exit(app())
