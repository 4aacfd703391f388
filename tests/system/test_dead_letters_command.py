"""Dead letters from the command line, in the state folder of a shop that does not run."""

import fcntl
import io
import json
from pathlib import Path

import pytest
from running import SHOP

from counterfoil import cli
from counterfoil.application import StateFolder, load_application
from counterfoil.application.state import write_json
from counterfoil.events import EmbeddedEvents, Record
from counterfoil.events.dead_letters import bury

WRONG = (
    '{"id":%d,"tenant":"aurora","customer":"c","day":"1997-03-01",'
    '"amount":"7","currency":"USD","discs":1}'
)
LETTERS = 4


class Shop:
    """Runs commands in this very process."""

    def __init__(self, state: StateFolder, capture: pytest.CaptureFixture[str]) -> None:
        self.events = EmbeddedEvents(state.root)
        self._state = state
        self._capture = capture

    def dlq(self, *arguments: str, code: int = 0) -> str:
        """What a command has written: to standard error if it could not run."""
        with pytest.raises(SystemExit) as ended:
            cli.main(["events", "dlq", *arguments, "--state", str(self._state.root)])
        assert (ended.value.code or 0) == code
        written = self._capture.readouterr()
        return written.err if code == 2 else written.out

    def status(self, *arguments: str) -> str:
        """What `counterfoil status` says while a supervisor holds the folder's lock."""
        write_json(self._state.run, {"processes": []})
        with self._state.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(SystemExit) as ended:
                cli.main(["status", str(SHOP), "--state", str(self._state.root), *arguments])
        assert (ended.value.code or 0) == 0
        return self._capture.readouterr().out

    def retries(self) -> list[str]:
        """The values in the retry topic."""
        reader = self.events.log().reader([self._retry_topic()], lambda _: {})
        batches = reader.fetch(100)
        return [record.value.decode() for batch in batches for record in batch.records]

    def transfers(self) -> list[tuple[int, int]]:
        """The ledger."""
        database = self.events.pipelines().database
        return database.execute("SELECT id, amount FROM ledger_transfers").fetchall()

    def _retry_topic(self):
        topics = load_application(SHOP, "shop:app").all_topics()
        return next(topic for topic in topics if topic.name == "ledger.retries")


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shop:
    """A shop whose last run has left dead letters: of the first, the key is another."""
    monkeypatch.setenv("COLUMNS", "200")
    state = StateFolder(tmp_path)
    nowhere = dict.fromkeys(("coordination", "gateway", "admin", "console"), "")
    write_json(state.addresses, nowhere)
    found = Shop(state, capsys)
    found.events.log().declare(load_application(SHOP, "shop:app").all_topics())
    store = found.events.pipelines()
    with store.database.transaction():
        for number in range(1, LETTERS + 1):
            key, value = "c" if number > 1 else "other", (WRONG % number).encode()
            record = Record("payments", 0, number, number, key, value, {"tenant": "aurora"}, 0)
            error = ValueError("amount is text")
            bury(store, "ledger", record, error, tries=3, now_us=number * 1_000_000)
    return found


def test_letters_are_listed_and_shown(shop: Shop) -> None:
    rows = json.loads(shop.dlq("list", str(SHOP), "--key", "c", "--error", "TEXT", "--json"))
    assert [row["id"] for row in rows] == [4, 3, 2]
    assert rows[0]["value"]["amount"] == "7", "JSON, not text of it"
    assert "amount is text" in shop.dlq("list", str(SHOP), "--until", "1970-01-01T00:00:02")
    assert "none that fit" in shop.dlq("list", str(SHOP), "--since", "1m")
    assert "--before 4" in shop.dlq("list", str(SHOP), "--limit", "1")
    shown = shop.dlq("show", "1", str(SHOP))
    assert "payments, partition 0, offset 1" in shown
    assert '"amount": "7"' in shown
    assert "no time" in shop.dlq("list", str(SHOP), "--since", "yesterday", code=2)
    assert "no dead letter 99" in shop.dlq("show", "99", str(SHOP), code=2)


def test_an_edited_letter_is_replayed_as_edited_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shop.dlq("edit", "2", str(SHOP), "--value", WRONG % 2, code=2)
    assert "Expected `int`, got `str` - at `$.amount`" in said
    right = (WRONG % 2).replace('"7"', "7")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(right.encode())))
    shop.dlq("edit", "2", str(SHOP), "--file", "-")
    assert "in the retries of ledger" in shop.dlq("replay", "2", str(SHOP))
    assert shop.retries() == [right]
    assert "was replayed before" in shop.dlq("replay", "2", str(SHOP), code=1)
    assert shop.retries() == [right]
    shown = json.loads(shop.dlq("show", "2", str(SHOP), "--json"))
    assert (shown["value"]["amount"], shown["replacement"]["amount"]) == ("7", 7)
    assert [entry["action"] for entry in shown["audit"]] == ["replay", "edit"]


def test_all_that_fit_are_replayed_and_each_is_told_of(shop: Shop) -> None:
    assert "which letters" in shop.dlq("replay", "some", str(SHOP), code=2)
    lines = shop.dlq("replay", "all", str(SHOP), "--key", "c", "--rate", "0", "--json")
    told = [json.loads(line) for line in lines.splitlines()]
    assert [(each["letter"], each["result"]) for each in told] == [
        (2, "done"),
        (3, "done"),
        (4, "done"),
    ]
    assert shop.retries() == [WRONG % number for number in (2, 3, 4)]
    assert "none that wait" in shop.dlq("replay", "all", str(SHOP), "--key", "c")
    assert "reason" in shop.dlq("discard", "all", str(SHOP), "--reason", " ", code=2)
    assert "1 of 1 done" in shop.dlq("discard", "all", str(SHOP), "--reason", "a test")
    audit = json.loads(shop.dlq("audit", str(SHOP), "--json"))
    assert [(entry["letter"], entry["action"]) for entry in audit] == [
        (1, "discard"),
        (4, "replay"),
        (3, "replay"),
        (2, "replay"),
    ]
    assert all("command line" in entry["actor"] for entry in audit)
    assert "a test" in shop.dlq("audit", str(SHOP), "--letter", "1")


def test_a_letter_is_tried_then_handled_here_and_now(shop: Shop) -> None:
    assert "Expected `int`, got `str`" in shop.dlq("try", "3", str(SHOP), code=1)
    shop.dlq("edit", "3", str(SHOP), "--value", (WRONG % 3).replace('"7"', "7"))
    said = shop.dlq("try", "3", str(SHOP))
    assert "customer/c to tenant/aurora: 7 USD (minor units), payment" in said
    assert shop.transfers() == []
    told = shop.dlq("replay", "all", str(SHOP), "--via", "handler", "--json", code=1)
    outcomes = {each["letter"]: each for each in map(json.loads, told.splitlines())}
    assert {number: each["result"] for number, each in outcomes.items()} == {
        1: "failed",
        2: "failed",
        3: "done",
        4: "failed",
    }
    assert outcomes[3]["detail"] == "1 transfer"
    assert shop.transfers() == [(3, 7)]
    assert shop.retries() == []


def test_status_tells_of_letters_that_wait(shop: Shop) -> None:
    assert f"{LETTERS} of ledger wait for a decision" in shop.status()
    (waiting,) = json.loads(shop.status("--json"))["dead_letters"]
    assert (waiting["pipeline"], waiting["letters"]) == ("ledger", LETTERS)
    shop.dlq("discard", "all", str(SHOP), "--reason", "a test")
    assert "dead letters" not in shop.status()
