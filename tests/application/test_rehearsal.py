"""An application is rehearsed in one process: fast, to the end, and through crashes."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType

import msgspec
import pytest

from counterfoil import Application, Context, Unit, VersionConflict
from counterfoil.application import load_application
from counterfoil.cli import scaffold
from counterfoil.events import EventsError, Topic
from counterfoil.testing import Rehearsal, RehearsalError


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The application that `counterfoil new` writes."""
    folder = tmp_path_factory.mktemp("new") / "rehearsed"
    scaffold.write_application(folder)
    load_application(folder, "rehearsed:app")
    yield sys.modules["rehearsed"]
    sys.path.remove(str(folder))


@pytest.fixture
def rehearsal(wallet: ModuleType) -> Iterator[Rehearsal]:
    with Rehearsal(wallet.app) as rehearsal:
        yield rehearsal


def pay(rehearsal: Rehearsal, wallet: ModuleType, key: str, amount: int = 500) -> int:
    body = wallet.TransferRequest("ada", "bob", amount, "EUR")
    return rehearsal.post("/transfers", body, idempotency_key=key).status_code


def test_a_request_goes_all_the_way(rehearsal: Rehearsal, wallet: ModuleType) -> None:
    assert pay(rehearsal, wallet, "1") == 201
    assert pay(rehearsal, wallet, "1") == 201, "a repeated key is answered again"
    assert rehearsal.run() == 2, "relayed, and posted"
    assert rehearsal.run() == 0
    assert [event.amount for event in rehearsal.events(wallet.transfers)] == [500]
    assert rehearsal.balance("ada", "EUR") == -500
    assert rehearsal.balance("bob", "EUR") == 500
    assert rehearsal.query("rehearsed", "SELECT payer, amount FROM transfers") == [("ada", 500)]


class Tick(msgspec.Struct, frozen=True):
    number: int


def test_all_events_of_a_topic_are_there_and_what_is_no_topic_is_refused() -> None:
    app = Application("clock")
    started = app.topic("started", Tick, partitions=2)
    ticks = app.topic("ticks", Tick, partitions=2)

    @app.pipeline("tick", started)
    def tick(event: Tick, context: Context) -> None:
        for number in range(event.number):
            context.emit(ticks, Tick(number), key="clock")

    with Rehearsal(app) as rehearsal:
        rehearsal.send(started, Tick(12_000), key="now")
        rehearsal.run()
        assert [event.number for event in rehearsal.events(ticks)] == list(range(12_000))
        with pytest.raises(RehearsalError, match="by their topic, not by 'ticks'"):
            rehearsal.events("ticks")  # pyright: ignore[reportArgumentType]
        with pytest.raises(EventsError, match="no topic 'elsewhere'"):
            rehearsal.events(Topic("elsewhere", Tick))


def test_bad_input_is_answered_as_in_production(rehearsal: Rehearsal, wallet: ModuleType) -> None:
    assert rehearsal.post("/transfers", b"{", idempotency_key="1").status_code == 400
    assert rehearsal.post("/transfers", b"{}", idempotency_key="2").status_code == 422
    assert pay(rehearsal, wallet, "") == 400
    with pytest.raises(RehearsalError, match="no service offers POST /nowhere"):
        rehearsal.post("/nowhere", b"", idempotency_key="3")


@pytest.mark.parametrize(
    "point", ["relay.before-append", "pipeline.before-commit", "pipeline.after-commit"]
)
def test_nothing_is_lost_or_doubled_by_a_crash(
    rehearsal: Rehearsal, wallet: ModuleType, point: str
) -> None:
    pay(rehearsal, wallet, "1")
    rehearsal.crash(point)
    rehearsal.run()
    assert len(rehearsal.events(wallet.transfers)) == 1
    assert rehearsal.balance("bob", "EUR") == 500


def test_a_crash_that_does_not_happen_is_an_error(rehearsal: Rehearsal) -> None:
    with pytest.raises(RehearsalError, match="nothing has reached"):
        rehearsal.crash("pipeline.before-commit")
    assert rehearsal.run() == 0, "it is not waited for any longer"


def test_what_is_no_event_becomes_a_dead_letter(rehearsal: Rehearsal, wallet: ModuleType) -> None:
    number = rehearsal.send_bytes(wallet.transfers, b"\xff", key="k")
    rehearsal.run()
    (letter,) = rehearsal.dead_letters()
    assert letter.event_id == number


def test_the_clock_moves_only_when_it_is_told_to(rehearsal: Rehearsal, wallet: ModuleType) -> None:
    pay(rehearsal, wallet, "1")
    rehearsal.advance(timedelta(days=1, seconds=1))
    pay(rehearsal, wallet, "2")
    rehearsal.run()
    days = [event.day for event in rehearsal.events(wallet.transfers)]
    assert sorted(days) == ["2026-01-01", "2026-01-02"]


class Ping(msgspec.Struct):
    number: int


def test_who_was_overtaken_is_told_so() -> None:
    app = Application("overtaken")
    service = app.service("pings", schema=[])

    @service.post("/pings")
    def ping(ping: Ping, _: Unit) -> Ping:
        raise VersionConflict(f"ping {ping.number} has changed since")

    with Rehearsal(app) as rehearsal:
        answer = rehearsal.post("/pings", Ping(7), idempotency_key="1")
        assert answer.status_code == 409
        assert answer.json()["detail"] == "ping 7 has changed since"


def test_an_application_that_feeds_itself_is_told_apart() -> None:
    app = Application("endless")
    pings = app.topic("pings", Ping, partitions=1)

    @app.pipeline("again", pings)
    def again(ping: Ping, context: Context) -> None:
        context.emit(pings, Ping(ping.number + 1), key="k")

    with Rehearsal(app, steps=20) as rehearsal:
        rehearsal.send(pings, Ping(1), key="k")
        with pytest.raises(RehearsalError, match="come to rest"):
            rehearsal.run()
