"""Read your writes: a read with the token of a write sees it, or says how far behind it is."""

import base64
import itertools
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    BadToken,
    Command,
    Context,
    EmbeddedEvents,
    Events,
    Message,
    NotCaughtUp,
    Pipeline,
    PipelineRunner,
    ReadModel,
    Relay,
    Reply,
    ServiceStore,
    Topic,
    Unit,
)
from counterfoil.events.consistency import HEADER, WRITES_LIMIT, token_of


class Put(msgspec.Struct, frozen=True):
    key: str
    value: int


PUTS, OTHERS = Topic("puts", Put, partitions=2), Topic("others", Put, partitions=1)


def show(event: Put, context: Context) -> None:
    context.state.put(event.key, str(event.value).encode())


SHOWN = Pipeline("shown", PUTS, show)


class Bank:
    """A service, its relay and a read model, each of which moves when it is told to."""

    def __init__(self, events: Events) -> None:
        self.log = events.log()
        self.log.declare([PUTS, OTHERS])
        ids = itertools.count(1)
        self.service = ServiceStore(
            events.service("bank"), [], next_id=lambda: next(ids), clock_us=lambda: 1_000_000
        )
        self.appender = self.log.appender("bank", 1)
        self.relay = Relay(events.outbox("bank"), self.appender)
        self.store = events.pipelines()
        self.runner = PipelineRunner(events.log(), events.pipelines(), SHOWN, lambda: 1)
        self.keys = itertools.count()

    def write(self, *puts: Put, topic: Topic[Put] = PUTS, repeat: str = "") -> str:
        def handle(unit: Unit) -> Reply:
            for put in puts:
                unit.publish(topic, put, key=put.key)
            return Reply(201, b"", {})

        key = repeat or str(next(self.keys))
        return self.service.submit(Command(key, b"h", {}, handle)).result().headers.get(HEADER, "")

    def model(self, *, moving: bool = True) -> ReadModel:
        """A read model; while it is waited for, the rest of the way moves on."""

        def move(_seconds: float) -> None:
            self.relay.step()
            self.runner.step()

        return ReadModel(self.log, self.store, SHOWN, sleep=move if moving else time.sleep)

    def read(self, key: str) -> bytes | None:
        row = self.store.database.execute(
            "SELECT value FROM state WHERE pipeline = 'shown' AND key = ?", (key,)
        ).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        self.service.close()
        self.runner.close()
        self.appender.close()


def test_a_read_with_the_token_of_a_write_sees_it(events: Events) -> None:
    bank = Bank(events)
    for number in range(5):
        token = bank.write(Put("a", number), Put("b", number))
        found = bank.model().await_caught_up(token, 30)
        assert found.events == 2
        assert bank.read("a") == bank.read("b") == str(number).encode()
    assert bank.model().lag() <= 2, "markers of Kafka's transactions at most"
    bank.close()


@settings(deadline=None, max_examples=25)
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["write", "read", "relay", "handle"]),
            st.sampled_from(["a", "b", "c", "d"]),
        ),
        max_size=80,
    )
)
def test_whatever_moves_when_a_read_is_never_older_than_its_token(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[str, str]]
) -> None:
    bank = Bank(EmbeddedEvents(tmp_path_factory.mktemp("bank")))
    model = bank.model()
    last: dict[str, tuple[str, int]] = {}
    for number, (turn, key) in enumerate(turns):
        if turn == "write":
            last[key] = (bank.write(Put(key, number)), number)
        elif turn == "relay":
            bank.relay.step()
        elif turn == "handle":
            bank.runner.step()
        elif key in last:
            token, written = last[key]
            model.await_caught_up(token, 30)
            assert bank.read(key) == str(written).encode()
    bank.close()


def test_a_model_that_stands_still_is_not_waited_for_for_ever(embedded: EmbeddedEvents) -> None:
    bank = Bank(embedded)
    token = bank.write(Put("a", 1))
    with pytest.raises(NotCaughtUp, match="0 events behind"):
        bank.model(moving=False).await_caught_up(token, 0.01)
    bank.relay.step()
    with pytest.raises(NotCaughtUp, match="1 events behind"):
        bank.model(moving=False).await_caught_up(token, 0.01)
    bank.runner.step()
    assert bank.model(moving=False).await_caught_up(token, 0.01).events == 1
    bank.close()


def test_a_token_of_other_topics_is_not_waited_for(embedded: EmbeddedEvents) -> None:
    bank = Bank(embedded)
    token = bank.write(Put("a", 1), topic=OTHERS)
    assert bank.model(moving=False).await_caught_up(token, 0).events == 0
    bank.close()


def test_a_repeated_write_is_answered_with_the_token_of_the_first(embedded: EmbeddedEvents) -> None:
    bank = Bank(embedded)
    first = bank.write(Put("a", 1), repeat="k")
    bank.write(Put("a", 2))
    assert bank.write(Put("a", 1), repeat="k") == first != ""
    assert bank.write() == "", "nothing to wait for"
    bank.close()


def test_a_token_stands_for_the_last_event_of_each_key_and_has_a_limit() -> None:
    def messages(keys: int) -> list[Message]:
        return [Message(n, "puts", f"k{n % keys}", b"", {}, 1) for n in range(100)]

    assert token_of(messages(2)) == token_of(messages(2)[-2:]) != ""
    assert token_of(messages(WRITES_LIMIT)) != ""
    assert token_of(messages(WRITES_LIMIT + 1)) == ""


@pytest.mark.parametrize("token", ["", "?", "e30=", "x" * 9_000, "W1tdXQ==", "é"])
def test_what_is_no_token_is_refused(embedded: EmbeddedEvents, token: str) -> None:
    log = embedded.log()
    log.declare([PUTS])
    with pytest.raises(BadToken):
        ReadModel(log, embedded.pipelines(), SHOWN).await_caught_up(token, 0)


def test_a_token_that_was_made_up_is_refused_where_it_can_be_none(embedded: EmbeddedEvents) -> None:
    log = embedded.log()
    log.declare([PUTS])
    model = ReadModel(log, embedded.pipelines(), SHOWN)
    for writes in (
        [["puts", "a", 1, 1]] * (WRITES_LIMIT + 1),
        [["puts", "a", -1, 1]],
        [["puts", "a", 1, -1]],
        [["puts", "a", 1, 1 << 63]],
    ):
        token = base64.urlsafe_b64encode(msgspec.json.encode(writes)).decode()
        with pytest.raises(BadToken):
            model.await_caught_up(token, 0)


def test_a_look_for_an_event_that_never_was_has_an_end(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(events)
    bank.write(Put("a", 1))
    bank.relay.step()
    token = bank.write(Put("a", 2))
    assert bank.model().await_caught_up(token, 30).events == 1
    monkeypatch.setattr("counterfoil.events.read_model.LOOK_SECONDS", -1.0)
    with pytest.raises(NotCaughtUp):
        bank.model(moving=False).await_caught_up(token, 0)
    bank.close()


def test_a_reader_waits_beside_those_that_work(embedded: EmbeddedEvents) -> None:
    bank, done = Bank(embedded), threading.Event()

    def work() -> None:
        while not done.is_set():
            bank.relay.step()
            bank.runner.step()

    beside = threading.Thread(target=work)
    beside.start()
    model = ReadModel(embedded.log(), embedded.pipelines(), SHOWN)
    reader = EmbeddedEvents(Path(embedded._folder)).pipelines().database
    for number in range(50):
        token = bank.write(Put("a", number))
        model.await_caught_up(token, 30)
        (value,) = reader.execute("SELECT value FROM state WHERE key = 'a'").fetchone()
        assert value == str(number).encode()
    done.set()
    beside.join()
    bank.close()
