"""What can't be read of a topic is a dead letter; its table and its report go on, and say so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from counterfoil import Application
from counterfoil.application import ConfigurationError
from counterfoil.events import DeadLetters, EmbeddedEvents, Message, PipelineStore
from counterfoil.reports import Embedded, EngineLost, Lake, ReportRunner
from counterfoil.reports.engine import Part
from counterfoil.supervisor.storing import Storing, unread


class Sale(msgspec.Struct, frozen=True):
    id: int
    day: str


app = Application("stall")
sales = app.topic("sales", Sale, partitions=1)
table = app.store(sales)
SQL = "SELECT day, count(*) AS number FROM sales GROUP BY day"
report = app.report("daily", table, {"totals": SQL}, title="Sales")


class Dying(Embedded):
    """An engine that is gone before its first append."""

    def __init__(self) -> None:
        self.died = False

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """Appends, but for the first time."""
        if not self.died:
            self.died = True
            raise EngineLost("gone")
        super().append(path, parts, now_us)


class Stall:
    """A log with events of every kind, and what keeps its table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.events = EmbeddedEvents(folder)
        self.log = self.events.log()
        self.log.declare(app.all_topics())
        self.store: PipelineStore = self.events.pipelines()
        self.letters = DeadLetters(self.store)

    def send(self, *values: bytes) -> None:
        appender = self.log.appender("test", 1)
        messages = [Message(n, "sales", "k", value, {}, 1) for n, value in enumerate(values)]
        appender.append(messages, appender.position + 1)
        appender.close()

    def storing(self, engine: Embedded | None = None) -> Storing:
        return Storing(
            app,
            "sales",
            lake=self.lake,
            engine=engine or Embedded(),
            event_log=self.log,
            store=self.store,
            now_us=lambda: 1,
        )

    def stored(self) -> list[int]:
        delta = self.lake.open(table)
        assert delta is not None
        ids: list[Any] = delta.to_pyarrow_table()["id"].to_pylist()
        return sorted(ids)

    def page(self) -> str:
        """What the report says, once it was brought up to the table."""
        runner = ReportRunner(self.lake, report, self.folder / "report", Embedded())
        runner.run(1, unread=unread(app, table, lambda: self.letters))
        return (self.folder / "report" / "index.html").read_text()


def sale(number: int) -> bytes:
    return sales.encode(Sale(number, "2026-03-01"))


@pytest.fixture
def stall(tmp_path: Path) -> Stall:
    return Stall(tmp_path)


def test_an_event_that_can_not_be_read_does_not_hold_the_others_back(stall: Stall) -> None:
    stall.send(sale(1), b'{"id": "one"}', b"\xff", sale(2))
    storing = stall.storing()
    assert storing.step() == 4
    assert storing.step() == 0
    assert stall.stored() == [1, 2]
    letters: list[Any] = stall.letters.list()
    assert [(each.pipeline, each.topic, each.offset) for each in letters] == [
        ("lake.sales", "sales", 2),
        ("lake.sales", "sales", 1),
    ]
    assert "not in this report: 2." in stall.page()
    assert stall.storing().step() == 0, "a new process goes on behind them"


def test_a_number_that_no_column_holds_does_not_hold_the_others_back(stall: Stall) -> None:
    largest, smallest = (1 << 63) - 1, -(1 << 63)
    stall.send(*map(sale, (largest + 1, largest, smallest, smallest - 1, 1 << 200)))
    storing = stall.storing()
    assert storing.step() == 5
    assert storing.step() == 0
    assert stall.stored() == [smallest, largest]
    letters: list[Any] = stall.letters.list()
    assert sorted(each.offset for each in letters) == [0, 3, 4]
    assert "RowRefused: table sales: column id holds 64 bits" in letters[0].error


@pytest.mark.parametrize(
    "day", ["", "today", "2026-02-30", "20260301", "2026-W09-7", "2026-03-01T00:00", "../x", "\0"]
)
def test_a_day_that_is_no_iso_date_does_not_hold_the_others_back(stall: Stall, day: str) -> None:
    stall.send(sale(1), sales.encode(Sale(2, day)), sale(3))
    storing = stall.storing()
    assert storing.step() == 3
    assert stall.stored() == [1, 3]
    assert "not in this report: 1." in stall.page()
    (letter,) = stall.letters.list()
    assert f"RowRefused: table sales: {day!r} in day is no ISO date" in letter.error
    stall.letters.edit(letter.id, sale(2), sales, 2)
    stall.letters.replay(letter.id, 3)
    assert storing.step() == 1
    assert stall.stored() == [1, 2, 3]


def test_a_crash_behind_a_letter_does_not_make_it_two(stall: Stall) -> None:
    stall.send(b"{}", sale(1))
    engine = Dying()
    storing = stall.storing(engine)
    with pytest.raises(EngineLost):
        storing.step()
    assert stall.storing(engine).step() == 2
    assert len(stall.letters.list()) == 1
    assert stall.stored() == [1]


def test_a_letter_that_is_mended_and_replayed_is_in_the_table_once(stall: Stall) -> None:
    stall.send(b"{}", sale(1))
    storing = stall.storing()
    storing.step()
    assert "not in this report: 1." in stall.page()
    (letter,) = stall.letters.list()
    stall.letters.edit(letter.id, sale(7), sales, 2)
    stall.letters.replay(letter.id, 3)
    assert storing.step() == 1
    assert stall.storing().step() == 0
    assert stall.stored() == [1, 7]
    assert "not in this report" not in stall.page()


def test_a_report_says_so_without_a_new_row(stall: Stall) -> None:
    stall.send(sale(1))
    storing = stall.storing()
    storing.step()
    assert "not in this report" not in stall.page()
    stall.send(b"{}")
    storing.step()
    assert "not in this report: 1." in stall.page()
    (letter,) = stall.letters.list()
    stall.letters.discard(letter.id, "a test of the till", 2)
    assert "not in this report" not in stall.page()


def test_no_pipeline_takes_the_name_of_a_table() -> None:
    with pytest.raises(ConfigurationError, match="is a name of the lake's"):
        Application("a").pipeline("lake.sales", sales)(lambda event, context: None)
