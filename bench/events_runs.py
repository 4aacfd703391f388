"""One run of one contestant of `events.py`, in a process of its own: `python bench/events_runs.py`.

Prints one JSON object: the figure, messages a second unless the case says otherwise, and the
microseconds of CPU that a message takes of this process alone.
"""

import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from counterfoil.events import (
    Context,
    EmbeddedEvents,
    KafkaEvents,
    Ledger,
    LogPipelineRunner,
    Message,
    Pipeline,
    PipelineRunner,
    Record,
    StatelessContext,
    Topic,
    rebuilt_balances,
)
from counterfoil.events.effects import Effects
from counterfoil.events.retention import GIVE_WAY_SECONDS
from counterfoil.kafka_access import KafkaAccess

ACCOUNTS: Final = 1_000
POISON: Final = 1_000
"""One message in this many can't be handled, where any can't."""


class Paid(msgspec.Struct, frozen=True):
    """What comes in: some 100 bytes of JSON."""

    id: int
    account: str
    amount: int
    currency: str
    at: int


class Priced(msgspec.Struct, frozen=True):
    """What goes out."""

    id: int
    account: str
    amount: int
    fee: int
    seen: int
    currency: str
    at: int


PAID: Final = Topic("paid", Paid)
PRICED: Final = Topic("priced", Priced)


def events_of(number: int) -> list[Message]:
    """The payments of a run."""
    found: list[Message] = []
    for n in range(number):
        account = f"account-{n % ACCOUNTS}"
        event = Paid(n, account, n * 7 % 9_999, "USD", 1_700_000_000_000_000 + n)
        found.append(Message(n, "paid", account, PAID.encode(event), {}, event.at))
    return found


def price(event: Paid, context: StatelessContext, seen: int = 0) -> None:
    """The transformation that every contestant makes."""
    priced = Priced(
        event.id, event.account, event.amount, event.amount // 100, seen, event.currency, event.at
    )
    context.emit(PRICED, priced, key=event.account)


def count_and_price(event: Paid, context: Context) -> None:
    """The same with keyed state."""
    seen = int(context.state.get(event.account) or b"0") + 1
    context.state.put(event.account, b"%d" % seen)
    price(event, context, seen)


def count_and_price_but_poison(event: Paid, context: Context) -> None:
    """The same, if the event isn't poisonous."""
    if event.id % POISON == POISON - 1:
        raise RuntimeError("poison")
    count_and_price(event, context)


def now_us() -> int:
    """Microseconds."""
    return time.time_ns() // 1_000


def measured(work: Callable[[], int]) -> dict[str, float]:
    """How fast `work` handles what it says that it has handled."""
    began, cpu = time.perf_counter(), time.process_time()
    number = work()
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    return {"figure": number / seconds, "cpu_us": cpu * 1e6 / number}


def drained(step: Callable[[], int], number: int) -> int:
    """Step until all was handled."""
    handled = 0
    while handled < number:
        handled += step()
    return handled


def embedded(
    number: int, limit: int, *, partitions: int = 4, poison: bool = False
) -> dict[str, float]:
    """Our pipeline on the embedded log: JSON, keyed state, every commit synced."""
    handler = count_and_price_but_poison if poison else count_and_price
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        events = EmbeddedEvents(Path(folder))
        log = events.log()
        paid = Topic("paid", Paid, partitions=partitions)
        log.declare([paid, PRICED])
        log.appender("bench", 1).append(events_of(number), number)
        pipeline = Pipeline("price", paid, handler, commit_limit=limit // partitions)
        runner = PipelineRunner(log, events.pipelines(), pipeline, now_us)
        return measured(lambda: drained(runner.step, number))


def opening(number: int) -> dict[str, float]:
    """Milliseconds from nothing to the last record of a log of `number` events."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        log = EmbeddedEvents(Path(folder)).log()
        log.declare([PAID])
        appender = log.appender("bench", 1)
        some = events_of(100_000)
        for start in range(0, number, len(some)):
            appender.append(some[: number - start], start + len(some))
        began = time.perf_counter()
        log = EmbeddedEvents(Path(folder)).log()
        ends = log.ends("paid")
        positions = {partition: end - 1 for partition, end in ends.items()}
        batches = log.reader([PAID], lambda _: positions).fetch(1)
        if sum(ends.values()) != number or sum(len(each.records) for each in batches) != len(ends):
            raise SystemExit("the log is not whole")
        return {"figure": (time.perf_counter() - began) * 1_000}


def retention(number: int, *, deleting: bool) -> dict[str, float]:
    """Milliseconds that the slowest of 1,000 appends takes while `number` events are forgotten."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        events = EmbeddedEvents(Path(folder))
        log = events.log()
        short = Topic("paid", Paid, retention_seconds=1)
        log.declare([short])
        appender = log.appender("bench", 1)
        appender.append(events_of(number), number)
        forgetting = events.retention([short])
        over = threading.Event()

        def forget() -> None:
            while deleting and forgetting.step(now_us()) and not over.wait(GIVE_WAY_SECONDS):
                continue

        beside = threading.Thread(target=forget)
        beside.start()
        slowest = 0.0
        for n in range(1_000):
            began = time.perf_counter()
            appender.append([Message(n, "paid", "a", b"{}", {}, now_us())], number + n + 1)
            slowest = max(slowest, time.perf_counter() - began)
        over.set()
        beside.join()
        return {"figure": slowest * 1_000}


def plain_sqlite(number: int, limit: int) -> dict[str, float]:
    """A plain loop over SQLite with the same durability: rows in, rows and state out."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        database = sqlite3.connect(Path(folder, "plain.db"), isolation_level=None)
        database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE source (offset INTEGER PRIMARY KEY, key TEXT, value BLOB) STRICT;"
            "CREATE TABLE sink (offset INTEGER PRIMARY KEY, key TEXT, value BLOB) STRICT;"
            "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB) STRICT, WITHOUT ROWID;"
            "CREATE TABLE position (id INTEGER PRIMARY KEY, next INTEGER) STRICT;"
            "INSERT INTO position VALUES (1, 0);"
        )
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO source VALUES (?, ?, ?)",
            [(each.event_id, each.key, each.value) for each in events_of(number)],
        )
        database.execute("COMMIT")
        return measured(lambda: _plain_loop(database, number, limit))


def _plain_loop(database: sqlite3.Connection, number: int, limit: int) -> int:
    decode = msgspec.json.Decoder(Paid).decode
    position = 0
    while position < number:
        database.execute("BEGIN IMMEDIATE")
        rows = database.execute(
            "SELECT offset, key, value FROM source WHERE offset >= ? ORDER BY offset LIMIT ?",
            (position, limit),
        ).fetchall()
        state: dict[str, int] = {}
        out: list[tuple[str, bytes]] = []
        for _, key, value in rows:
            event = decode(value)
            if key not in state:
                found = database.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
                state[key] = int(found[0]) if found else 0
            state[key] += 1
            priced = Priced(
                event.id,
                key,
                event.amount,
                event.amount // 100,
                state[key],
                event.currency,
                event.at,
            )
            out.append((key, msgspec.json.encode(priced)))
        database.executemany("INSERT INTO sink (key, value) VALUES (?, ?)", out)
        database.executemany(
            "INSERT INTO state VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [(key, b"%d" % seen) for key, seen in state.items()],
        )
        position += len(rows)
        database.execute("UPDATE position SET next = ?", (position,))
        database.execute("COMMIT")
    return number


def ledger(number: int) -> dict[str, float]:
    """Transfers between 1,000 customers and 20 tenants, commits of 1,000, then a rebuild."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        store = EmbeddedEvents(Path(folder)).pipelines()
        effects = Effects(store, "bench")
        record = Record("paid", 0, 0, 1, "k", b"", {}, 1)

        def post(n: int) -> None:
            Ledger(effects.book, record, n).transfer(
                id=n * 7_919 % 1_000_003,  # ids don't come in order: they are the services'
                debit=f"customer/{n % ACCOUNTS}",
                credit=f"tenant/{n % 20}",
                amount=n % 100,
                currency="USD",
                code="payment",
            )

        def work() -> int:
            for start in range(0, number, 1_000):
                with store.database.transaction():
                    effects.begin(alone=False)
                    for n in range(start, min(start + 1_000, number)):
                        effects.handle(post, n)
                    effects.flush()
            return number

        figures = measured(work)
        rows = store.database.execute("SELECT name, currency, debits, credits FROM ledger_accounts")
        stored = {(name, currency): (debit, credit) for name, currency, debit, credit in rows}
        if stored != rebuilt_balances(store.database):
            raise SystemExit("the balances are not those of a rebuild")
        return figures


def postgres_rows(number: int, uri: str, password: str) -> dict[str, float]:
    """A ledger as it is often written: a transaction for each transfer, both accounts locked."""
    import psycopg

    with psycopg.connect(uri, password=password, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS bench_ledger CASCADE")
        connection.execute("CREATE SCHEMA bench_ledger")
        connection.execute("SET search_path = bench_ledger")
        connection.execute(
            "CREATE TABLE accounts (name text PRIMARY KEY, debits bigint, credits bigint)"
        )
        connection.execute(
            "CREATE TABLE transfers (id bigint PRIMARY KEY, debit text, credit text, amount bigint)"
        )
        names = [f"customer/{n}" for n in range(ACCOUNTS)] + [f"tenant/{n}" for n in range(20)]
        for name in names:
            connection.execute("INSERT INTO accounts VALUES (%s, 0, 0)", (name,))

        def work() -> int:
            for n in range(number):
                debit, credit, amount = f"customer/{n % ACCOUNTS}", f"tenant/{n % 20}", n % 100
                with connection.transaction():
                    connection.execute(
                        "INSERT INTO transfers VALUES (%s, %s, %s, %s)", (n, debit, credit, amount)
                    )
                    connection.execute(
                        "UPDATE accounts SET debits = debits + %s WHERE name = %s", (amount, debit)
                    )
                    connection.execute(
                        "UPDATE accounts SET credits = credits + %s WHERE name = %s",
                        (amount, credit),
                    )
            return number

        return measured(work)


def kafka(number: int, limit: int, servers: str, application: str) -> dict[str, float]:
    """Our stateless pipeline on Kafka, exactly once; its database is not on the way."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        events = KafkaEvents(servers, "", None, application)
        log = events.log()
        log.declare([PAID, PRICED])
        pipeline = Pipeline("price", PAID, price, stateless=True, commit_limit=limit)
        store = EmbeddedEvents(Path(folder)).pipelines()
        runner = LogPipelineRunner(log, store, pipeline, now_us)
        figures = from_the_first(runner, number)
        runner.close()
        return figures


def from_the_first(runner: LogPipelineRunner, number: int) -> dict[str, float]:
    """Measure from the first commit on to the end of the last: connecting is not counted."""
    while not (first := runner.step()):
        continue
    runner._exchange.settle()

    def work() -> int:
        handled = drained(runner.step, number - first)
        runner._exchange.settle()
        return handled

    return measured(work)


def kafka_at_least_once(
    number: int, limit: int, servers: str, application: str
) -> dict[str, float]:
    """The same without a transaction: positions are written once all is acknowledged."""
    from events_at_least_once import AtLeastOnceLog

    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as folder:
        embedded = EmbeddedEvents(Path(folder))
        log = AtLeastOnceLog(KafkaAccess(servers), application, embedded.registry)
        log.declare([PAID, PRICED])
        pipeline = Pipeline("price", PAID, price, stateless=True, commit_limit=limit)
        store = embedded.pipelines()
        runner = LogPipelineRunner(log, store, pipeline, now_us)
        figures = from_the_first(runner, number)
        runner.close()
        return figures


def kafka_plain(number: int, limit: int, servers: str, application: str) -> dict[str, float]:
    """What confluent-kafka's users write by hand: a group, a transaction, offsets sent to it."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    names = f"{application}.paid", f"{application}.priced"
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"{application}.plain",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": f"{application}.plain",
            "compression.type": "lz4",
            "linger.ms": 5,
        }
    )
    producer.init_transactions(30)
    consumer.assign([TopicPartition(names[0], n, 0) for n in range(PAID.partitions)])
    decode = msgspec.json.Decoder(Paid).decode

    def some(wanted: int) -> int:
        handled = 0
        while handled < wanted:
            messages = consumer.consume(limit, 0.1)
            if not messages:
                continue
            producer.begin_transaction()
            following: dict[int, int] = {}
            for message in messages:
                event = decode(message.value())  # type: ignore[arg-type]
                priced = Priced(
                    event.id,
                    event.account,
                    event.amount,
                    event.amount // 100,
                    0,
                    event.currency,
                    event.at,
                )
                producer.produce(names[1], msgspec.json.encode(priced), message.key())
                following[message.partition()] = message.offset() + 1  # type: ignore
            producer.send_offsets_to_transaction(
                [TopicPartition(names[0], n, offset) for n, offset in following.items()],
                consumer.consumer_group_metadata(),
            )
            producer.commit_transaction(30)
            handled += len(messages)
        return handled

    first = some(1)
    figures = measured(lambda: some(number - first))
    consumer.close()
    return figures


def fill(number: int, servers: str, application: str) -> dict[str, float]:
    """Put the messages of a run into Kafka."""
    log = KafkaEvents(servers, "", None, application).log()
    log.declare([PAID, PRICED])
    appender = log.appender("bench", 1)
    messages = events_of(number)
    for start in range(0, number, 10_000):
        appender.append(messages[start : start + 10_000], start + 10_000)
    appender.close()
    return {}


RUNS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    each.__name__: each
    for each in (
        embedded,
        plain_sqlite,
        ledger,
        opening,
        postgres_rows,
        retention,
        kafka,
        kafka_at_least_once,
        kafka_plain,
        fill,
    )
}

if __name__ == "__main__":
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(RUNS[name](**arguments)))
