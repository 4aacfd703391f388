"""Task queues in a rehearsal: done when they are due, tried again as the clock moves."""

from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from counterfoil import Application, Context, Unit
from counterfoil.testing import Rehearsal

app = Application("notices")


class Notice(msgspec.Struct, frozen=True):
    id: str
    text: str


service = app.service("notices", schema=[])
told: list[str] = []
failures: list[str] = []


@app.tasks("tell", Notice, tries=2)
def tell(task: Notice) -> int:
    told.append(task.text)
    if failures:
        raise OSError(failures.pop())
    return len(task.text)


@tell.then
def keep(task: Notice, length: int, context: Context) -> None:
    context.ledger.transfer(
        id=int(task.id), debit="a", credit="told", amount=length, currency="X", code="t"
    )


@app.tasks("later", Notice)
async def later(task: Notice) -> None:
    told.append(f"later: {task.text}")


@service.post("/notices")
def post(request: Notice, unit: Unit) -> Notice:
    tell.send(unit, request)
    later.send(unit, request, delay_seconds=3_600)
    return request


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    told.clear()
    failures.clear()
    with Rehearsal(app) as rehearsal:
        rehearsal.post("/notices", Notice("1", "hello"), idempotency_key="1")
        yield rehearsal


def test_a_task_is_done_once_and_a_delayed_one_when_its_time_has_come(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.run()
    assert (told, rehearsal.balance("told", "X")) == (["hello"], 5)
    rehearsal.advance(timedelta(minutes=59))
    assert rehearsal.run() == 0
    rehearsal.advance(timedelta(minutes=1))
    rehearsal.run()
    assert told == ["hello", "later: hello"]


def test_a_task_that_fails_is_tried_again_and_is_a_dead_letter_in_the_end(
    rehearsal: Rehearsal,
) -> None:
    failures.extend(["away", "away"])
    rehearsal.run()
    assert (told, rehearsal.dead_letters()) == (["hello"], [])
    rehearsal.advance(timedelta(seconds=1))
    rehearsal.run()
    assert told == ["hello", "hello"]
    assert [letter.pipeline for letter in rehearsal.dead_letters()] == ["tasks.tell"]


def test_a_crash_before_the_acknowledgement_has_the_task_done_again_with_one_effect(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.crash("tasks.before-commit")
    rehearsal.run()
    assert (told, rehearsal.balance("told", "X")) == (["hello"], 0)
    rehearsal.advance(timedelta(seconds=31))
    rehearsal.run()
    assert (told, rehearsal.balance("told", "X")) == (["hello", "hello"], 5)
