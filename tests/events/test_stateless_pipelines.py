"""Stateless pipelines: the same on both engines, though on Kafka no database is on the way."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaException
from structlog.testing import capture_logs

from counterfoil.events import (
    Batch,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    ExchangeLog,
    LogPipelineRunner,
    Message,
    Pipeline,
    PipelineRunner,
    Share,
    StatelessContext,
    TermOver,
    lag,
)
from counterfoil.events.shares import ALL
from counterfoil.events.topics import partition_of

from .test_exactly_once import PATIENCE_SECONDS, SEEN, TOPIC, Paid, append, make_log, message
from .test_exactly_once import records as records_of

Runner = PipelineRunner | LogPipelineRunner


def now_us() -> int:
    return time.time_ns() // 1_000


def forward(event: Paid, context: StatelessContext) -> None:
    context.emit(SEEN, event, key=event.account)
    if event.amount == 666:
        raise RuntimeError("poison")


def make(
    events: Events,
    handler: Callable[..., None] = forward,
    share: Share = ALL,
    **settings: Any,
) -> Runner:
    log = make_log(events)
    pipeline = Pipeline("f", TOPIC, handler, stateless=True, **settings)
    if isinstance(log, ExchangeLog):
        return LogPipelineRunner(log, events.pipelines(), pipeline, now_us, share)
    return PipelineRunner(log, events.pipelines(), pipeline, now_us)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def handle(running: Runner, number: int) -> None:
    handled = 0

    def done() -> bool:
        nonlocal handled
        handled += running.step()
        return handled >= number

    until(done)
    assert handled == number
    assert running.step() == 0


@contextmanager
def running(events: Events, **settings: Any) -> Iterator[Runner]:
    with closing(make(events, **settings)) as made:
        yield made


def test_what_is_emitted_is_in_the_log_once(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(50)])
    with running(events, commit_limit=7) as runner:
        handle(runner, 50)
    found = records_of(events, SEEN, 50)
    assert sorted(record.event_id for record in found) == list(range(50))
    for account in ("a0", "a1", "a2"):
        ids = [record.event_id for record in found if record.key == account]
        assert ids == sorted(ids)
    assert found[0].headers == {"caused-by": str(found[0].event_id)}


def test_the_next_term_goes_on_where_commits_ended(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(20)])
    with running(events) as runner:
        handle(runner, 20)
    append(make_log(events), [message(number) for number in range(20, 25)])
    with running(events) as runner:
        handle(runner, 5)
    assert len(records_of(events, SEEN, 25)) == 25


@pytest.mark.secured
def test_a_poison_message_is_listed_once_and_the_rest_goes_on(events: Events) -> None:
    poisonous = {3, 11}
    append(make_log(events), [message(n, 666 if n in poisonous else 1) for n in range(20)])
    letters = DeadLetters(events.pipelines())
    with running(events) as runner:
        handle(runner, 20)
        until(lambda: runner.step() == 0 and len(letters.list()) == 2)
    with running(events) as runner:  # what was listed isn't listed again
        assert runner.step() == 0
    found = letters.list()
    assert {letter.event_id: letter.tries for letter in found} == dict.fromkeys(poisonous, 3)
    assert {letter.topic for letter in found} == {"paid"}
    assert all("RuntimeError: poison" in letter.traceback for letter in found)
    assert all(letter.headers == {} for letter in found)
    assert len(records_of(events, SEEN, 18)) == 18


def test_what_others_write_to_the_dead_letter_topic_stops_nobody(events: Events) -> None:
    append(make_log(events), [message(0, 666), message(1)])
    foreign = [
        {},
        {"error": "e", "dead-letter-traceback": "", "dead-letter-tries": "3"},
        {
            "error": "e",
            "dead-letter-traceback": "",
            "dead-letter-tries": "9" * 30,
            "dead-letter-source": "paid/0/1",
        },
        {
            "error": "e",
            "dead-letter-traceback": "",
            "dead-letter-tries": "3",
            "dead-letter-source": "elsewhere",
        },
    ]
    letters = DeadLetters(events.pipelines())
    with running(events) as runner, capture_logs() as lines:
        log = events.log()
        log.declare([TOPIC.beside("f.dead-letters")])
        append(
            log,
            [Message(n, "f.dead-letters", "k", b"x", each, 1) for n, each in enumerate(foreign)],
        )
        handle(runner, 2)
        until(lambda: runner.step() == 0 and len(letters.list()) == 1)
    assert [letter.error for letter in letters.list()] == ["RuntimeError: poison"]
    told = [line["records"] for line in lines if "passed_over" in line["event"]]
    assert sum(told) == (0 if isinstance(events, EmbeddedEvents) else len(foreign))


def test_a_batch_handler_may_be_stateless(events: Events) -> None:
    append(make_log(events), [message(n, 666 if n == 4 else 1) for n in range(10)])

    def forward_all(pairs: list[tuple[Paid, StatelessContext]]) -> None:
        for event, context in pairs:
            forward(event, context)

    with running(events, handler=forward_all, batch=True) as runner:
        handle(runner, 10)
    assert len(records_of(events, SEEN, 9)) == 9


def test_state_ledger_and_sql_are_refused(events: Events) -> None:
    append(make_log(events), [message(1)])
    errors: list[str] = []

    def wrong(event: Paid, context: StatelessContext) -> None:
        for name in ("state", "ledger", "execute"):
            with pytest.raises(EventsError, match="declared stateless") as caught:
                getattr(context, name)
            errors.append(str(caught.value))

    with running(events, handler=wrong) as runner:
        handle(runner, 1)
    assert len(errors) == 3


def test_how_far_it_is_can_be_seen(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(9)])
    log, store = make_log(events), events.pipelines()
    with running(events) as runner:
        handle(runner, 9)

        def told() -> bool:
            runner.step()
            return sum(each.committed for each in lag(log, store) if each.topic == "paid") >= 9

        until(told)


def test_a_zombie_commits_nothing(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("twins on the embedded log are fenced by their positions: test_exactly_once")
    append(make_log(events), [message(number) for number in range(10)])
    zombie = make(events)
    assert isinstance(zombie, LogPipelineRunner)
    batches: list[Batch] = []
    until(lambda: bool(batches.extend(zombie._exchange.fetch(100)) or batches))
    with running(events) as runner:
        handle(runner, 10)
    zombie._handling.run(batches, 1)
    with pytest.raises(TermOver):
        zombie._exchange.commit(batches, zombie._outgoing.take())
        zombie._exchange.settle()
    zombie.close()
    assert len(records_of(events, SEEN, 10)) == 10


@pytest.mark.parametrize("sent", [False, True], ids=["unsent", "sent"])
@pytest.mark.parametrize("committing", [False, True], ids=["open", "committing"])
@pytest.mark.filterwarnings("error")
def test_a_fenced_term_is_closed_in_peace(events: Events, *, sent: bool, committing: bool) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("the embedded log has no terms")
    fenced = make(events)
    assert isinstance(fenced, LogPipelineRunner)
    exchange = fenced._exchange
    producer, positions = exchange._producer, exchange._positions_topic  # type: ignore[attr-defined]
    producer.begin_transaction()
    if sent:
        producer.produce(positions, partition=0, key=b"paid/0", value=b'{"next": 0}')
        assert producer.flush(PATIENCE_SECONDS) == 0
    with running(events):
        producer.produce(positions, partition=0, key=b"paid/0", value=b'{"next": 0}')
        if committing:
            with pytest.raises(KafkaException):
                producer.commit_transaction(PATIENCE_SECONDS)
        fenced.close()


def test_a_term_that_failed_takes_no_further_step(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("the embedded log has no terms")
    append(make_log(events), [message(1)])

    def interrupt(event: Paid, context: StatelessContext) -> None:
        raise KeyboardInterrupt

    with running(events, handler=interrupt) as runner:
        with pytest.raises(KeyboardInterrupt):
            until(lambda: bool(runner.step()))
        with pytest.raises(TermOver):
            runner.step()
    with running(events) as runner:
        handle(runner, 1)


def spread(numbers: range) -> list[Message]:
    """Events for all partitions."""
    return [msgspec.structs.replace(message(number), key=f"k{number}") for number in numbers]


def handle_together(runners: list[Runner], number: int) -> None:
    """Step all of them until they have handled so many events."""
    handled = 0

    def done() -> bool:
        nonlocal handled
        handled += sum(each.step() for each in runners)
        return handled >= number

    until(done)
    assert handled == number
    assert [each.step() for each in runners] == [0] * len(runners)


def test_processes_share_the_partitions_and_a_restart_moves_none(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("on the embedded log a pipeline has one process")
    shares = [Share(number, 2) for number in range(2)]

    def own(share: Share, messages: list[Message]) -> int:
        return sum(share.has(partition_of(each.key, TOPIC.partitions)) for each in messages)

    before, after = spread(range(40)), spread(range(40, 80))
    append(make_log(events), before)
    first, second = (make(events, share=share) for share in shares)
    handle(first, own(shares[0], before))
    handle(second, own(shares[1], before))
    second.close()
    append(make_log(events), after)
    handle(first, own(shares[0], after))  # it is neither stopped nor given more
    with closing(make(events, share=shares[1])) as restarted:
        handle(restarted, own(shares[1], after))
    first.close()
    found = records_of(events, SEEN, 80)
    assert sorted(record.event_id for record in found) == list(range(80))


def test_a_position_behind_anothers_open_transaction_is_waited_for(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("on the embedded log a pipeline has one process")
    share = Share(1, 2)
    messages = [
        each for each in spread(range(40)) if share.has(partition_of(each.key, TOPIC.partitions))
    ]
    append(make_log(events), messages)
    other, first = make(events, share=Share(0, 2)), make(events, share=share)
    assert isinstance(other, LogPipelineRunner)
    producer, positions = other._exchange._producer, other._exchange._positions_topic  # type: ignore[attr-defined]
    producer.begin_transaction()
    producer.produce(positions, partition=0, key=b"paid/0", value=b'{"next": 0}')
    producer.flush(PATIENCE_SECONDS)
    handle(first, len(messages))
    first.close()
    with ThreadPoolExecutor(1) as beside:
        making = beside.submit(make, events, share=share)
        with pytest.raises(TimeoutError):
            making.result(1.0)
        producer.abort_transaction(PATIENCE_SECONDS)
        restarted = making.result(PATIENCE_SECONDS)
    append(make_log(events), [msgspec.structs.replace(messages[0], event_id=99)])
    handle(restarted, 1)
    restarted.close()
    other.close()
    assert len(records_of(events, SEEN, len(messages) + 1)) == len(messages) + 1


def test_a_process_begins_though_others_commit_without_a_pause(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("on the embedded log a pipeline has one process")
    other = make(events, share=Share(0, 2))
    assert isinstance(other, LogPipelineRunner)
    producer, positions = other._exchange._producer, other._exchange._positions_topic  # type: ignore[attr-defined]
    stop = threading.Event()

    def commit_on_and_on() -> None:
        while not stop.is_set():
            producer.begin_transaction()
            producer.produce(positions, partition=0, key=b"paid/0", value=b'{"next": 0}')
            producer.commit_transaction(PATIENCE_SECONDS)

    with ThreadPoolExecutor(2) as beside:
        committing = beside.submit(commit_on_and_on)
        making = beside.submit(make, events, share=Share(1, 2))
        try:
            making.result(PATIENCE_SECONDS).close()
        finally:
            stop.set()
        committing.result(PATIENCE_SECONDS)
    other.close()


def test_another_number_of_processes_fences_the_one_before(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("on the embedded log a pipeline has one process")
    append(make_log(events), spread(range(30)))
    with closing(make(events)) as alone:
        handle(alone, 30)
        append(make_log(events), spread(range(30, 60)))
        three = [make(events, share=Share(number, 3)) for number in range(3)]
        with pytest.raises(TermOver):
            until(lambda: alone.step() < 0)
        handle_together(three, 30)
    append(make_log(events), spread(range(60, 90)))
    with (
        closing(make(events, share=Share(0, 2))) as one,
        closing(make(events, share=Share(1, 2))) as other,
    ):
        for each in three:
            with pytest.raises(TermOver):
                until(lambda each=each: each.step() < 0)
            each.close()
        handle_together([one, other], 30)
    found = records_of(events, SEEN, 90)
    assert sorted(record.event_id for record in found) == list(range(90))


@pytest.mark.parametrize("of", range(1, 7))
def test_shares_part_the_partitions_and_overlap_where_they_have_one_in_common(of: int) -> None:
    shares = [Share(number, of) for number in range(of)]
    for partition in range(60):
        assert sum(share.has(partition) for share in shares) == 1
    for other in (Share(number, more) for more in range(1, 7) for number in range(more)):
        for share in shares:
            common = any(share.has(each) and other.has(each) for each in range(60))
            assert share.overlaps(other) == common
