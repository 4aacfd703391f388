"""What the console answers about dead letters and topics, without the processes around it."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from asking import ConsoleClient
from running import SHOP

from counterfoil.events import Record
from counterfoil.events.dead_letters import bury
from counterfoil.reports import Batch, Embedded, Lake, LakeWriter, ReportRunner

PAYMENT = (
    '{"id":%d,"tenant":"aurora","customer":"c","day":"1997-03-01",'
    '"amount":%s,"currency":"USD","discs":1}'
)
LARGE = 9_007_199_254_740_993


class Page(ConsoleClient):
    """Asks as the page does, of a console whose shop has left three dead letters."""

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        super().__init__(SHOP, folder, read_only=read_only)
        self.events = self.host.events()
        self.events.log().declare(self.host.application.all_topics())
        store = self.events.pipelines()
        with store.database.transaction():
            for number in (LARGE, 2, 3):
                value = (PAYMENT % (number, '"7"')).encode()
                record = Record("payments", 0, number % 9, number, "c", value, {}, 0)
                bury(store, "ledger", record, ValueError("text"), tries=3, now_us=number)
        store.close()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path, read_only=False)


def test_a_trace_tells_where_a_payment_was_given_up(page: Page) -> None:
    unit = page.host.state.service("payments")
    service = sqlite3.connect(unit)
    service.execute("CREATE TABLE outbox (seq, event_id, topic, key, headers, created_us)")
    service.execute("INSERT INTO outbox VALUES (1, ?, 'payments', 'c', '{}', 1)", [LARGE])
    service.commit()
    service.close()
    (letter,) = [each for each in page.get(f"/api/trace/{LARGE}")["steps"] if each["letter"]]
    assert (letter["name"], letter["letter"]) == ("dead letter", "1")
    assert letter["where"] == "dead letter 1 of ledger"
    assert letter["what"] == "waits for a decision: ValueError: text"
    page.post("/api/dead-letters/1/discard", {"reason": "a test"})
    (letter,) = [each for each in page.get(f"/api/trace/{LARGE}")["steps"] if each["letter"]]
    assert letter["what"].startswith("discarded 20")


def test_letters_are_found_and_paged(page: Page) -> None:
    found = page.get("/api/dead-letters?error=TEXT&key=c&state=waiting&limit=2")
    assert [each["id"] for each in found] == ["3", "2"]
    rest = page.get("/api/dead-letters?error=TEXT&before=2")
    assert [each["event_id"] for each in rest] == [str(LARGE)], "as a string: it is too large"
    assert page.get("/api/dead-letters?pipeline=mail") == []
    assert [each["letters"] for each in page.get("/api/dead-letters/waiting")] == [3]
    assert page.send("GET", "/api/dead-letters?limit=many").status_code == 400
    assert page.send("GET", "/api/dead-letters/99").status_code == 404
    assert page.send("GET", f"/api/dead-letters/{1 << 63}").status_code == 404
    assert page.send("GET", f"/api/dead-letters?before={1 << 63}").status_code == 400
    assert page.post(f"/api/dead-letters/{1 << 63}/discard", {"reason": "x"}).status_code == 404


def test_a_letter_is_edited_tried_and_handled(page: Page) -> None:
    refused = page.post("/api/dead-letters/1/edit", {"value": PAYMENT % (LARGE, '"7"')})
    assert refused.status_code == 422
    assert "Expected `int`, got `str` - at `$.amount`" in refused.json()["detail"]
    assert "Expected" in page.post("/api/dead-letters/1/try").json()["error"]
    edit = {"value": PAYMENT % (LARGE, "7")}
    assert page.post("/api/dead-letters/1/edit", edit).status_code == 204
    tried = page.post("/api/dead-letters/1/try").json()
    assert (tried["said"], tried["error"]) == ("1 transfer", None)
    assert tried["transfers"][0]["id"] == str(LARGE)
    handled = page.post("/api/dead-letters/1/replay", {"via": "handler"})
    assert handled.json() == {"said": "1 transfer"}
    shown = page.get("/api/dead-letters/1")
    assert [entry["action"] for entry in shown["audit"]] == ["handle", "edit"]
    assert {entry["actor"] for entry in shown["audit"]} == {"console"}
    again = page.post("/api/dead-letters/1/replay")
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    failed = page.post("/api/dead-letters/2/replay", {"via": "handler"})
    assert failed.status_code == 422
    assert page.get("/api/dead-letters/2")["replayed_us"] is None


def test_a_replay_of_many_tells_of_each_and_says_where_it_ended(page: Page) -> None:
    assert page.post("/api/dead-letters/2/discard", {"reason": " "}).status_code == 422
    assert page.post("/api/dead-letters/2/discard", {"reason": "a test"}).status_code == 204
    part = {"selection": {"pipeline": "ledger"}, "via": "retries"}
    told = page.post("/api/dead-letters/replay", part).json()
    assert [(each["letter"], each["result"]) for each in told["outcomes"]] == [
        ("1", "done"),
        ("3", "done"),
    ]
    assert (told["after"], told["last"], told["ended"]) == ("3", "3", True)
    assert page.get("/api/dead-letters/waiting") == []
    wrong = page.post("/api/dead-letters/replay", {"selection": {"pipelines": "ledger"}})
    assert wrong.status_code == 400, "a filter that is misspelt must not mean all"


def test_a_console_that_is_read_only_refuses_every_action(tmp_path: Path) -> None:
    page = Page(tmp_path, read_only=True)
    for path, body in (
        ("1/edit", {"value": PAYMENT % (1, "7")}),
        ("1/try", None),
        ("1/replay", None),
        ("1/discard", {"reason": "a test"}),
        ("replay", {"selection": {}}),
    ):
        assert page.post(f"/api/dead-letters/{path}", body).status_code == 403
    assert [each["letters"] for each in page.get("/api/dead-letters/waiting")] == [3]


def test_a_request_that_is_too_large_is_refused(page: Page) -> None:
    huge = page.post("/api/dead-letters/1/edit", {"value": "x" * (1 << 20)})
    assert huge.status_code == 400


def test_a_report_says_how_many_events_it_could_not_read(page: Page) -> None:
    application, state = page.host.application, page.host.state
    report = application.reports["daily"]
    assert page.get("/api/reports/daily")["unread"] == 0, "nothing was published yet"
    lake = Lake(state.lake)
    event = msgspec.json.decode((PAYMENT % (1, "7")).encode(), type=report.source.row)
    LakeWriter(lake, report.source, Embedded()).append(
        {0: Batch([event], 1, start=0)}, source="payments", now_us=1
    )
    ReportRunner(lake, report, state.reports / "daily", Embedded()).run(2, unread=3)
    found = page.get("/api/reports/daily")
    assert (found["unread"], found["letters"]) == (3, "lake.payments")
    assert [each["unread"] for each in page.get("/api/reports")] == [3]


def test_topics_consumers_and_transactions_are_shown(page: Page) -> None:
    with page.events.pipelines().database.transaction():
        found = page.get("/api/topics")
    payments = next(each for each in found["topics"] if each["name"] == "payments")
    assert len(payments["partitions"]) == 4
    assert found["consumers"] == []
    assert [each["state"] for each in found["transactions"]] == ["open"]
    store = page.events.pipelines()
    store.store_positions("lake", "payments", {0: 0})
    (lake,) = page.get("/api/topics")["consumers"]
    assert (lake["group"], lake["lag"], lake["catch_up_seconds"]) == ("lake", 0, 0)
