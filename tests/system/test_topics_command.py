"""`counterfoil events topics`, `read`, `lag` and `transactions`, on a shop that does not run."""

import json
import time
from pathlib import Path

import pytest
from running import SHOP

from counterfoil import cli
from counterfoil.application import StateFolder, load_application
from counterfoil.application.state import write_json
from counterfoil.cli.inspection import left_behind
from counterfoil.events import EmbeddedEvents, Message


def run(capture: pytest.CaptureFixture[str], state: Path, *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["events", *arguments, "--state", str(state)])
    assert (ended.value.code or 0) == code
    written = capture.readouterr()
    return written.err if code == 2 else written.out


def test_the_log_is_looked_at_from_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    nowhere = dict.fromkeys(("coordination", "gateway", "admin", "console"), "")
    write_json(StateFolder(tmp_path).addresses, nowhere)
    events = EmbeddedEvents(tmp_path)
    log = events.log()
    application = load_application(SHOP, "shop:app")
    log.declare(application.all_topics())
    now = time.time_ns() // 1_000
    old, new = now - 3_600_000_000, now
    messages = [
        Message(number, "payments", "c", b'{"id":%d}' % number, {}, old if number < 3 else new)
        for number in range(5)
    ]
    log.appender("payments", 1).append(messages, 1)
    partition = next(number for number, end in log.ends("payments").items() if end)
    store = events.pipelines()
    store.store_positions("lake", "payments", {partition: 2})

    (shown,) = [
        each
        for each in json.loads(run(capsys, tmp_path, "topics", str(SHOP), "--json"))
        if each["name"] == "payments"
    ]
    assert (shown["records"], shown["skew"]) == (5, 4.0)
    assert "payments" in run(capsys, tmp_path, "topics", str(SHOP))

    def ids(*arguments: str) -> list[int]:
        lines = run(capsys, tmp_path, "read", "payments", str(SHOP), "--json", *arguments)
        return [json.loads(line)["value"]["id"] for line in lines.splitlines()]

    assert ids() == [0, 1, 2, 3, 4]
    assert ids("--from", "15m") == [3, 4]
    assert ids("--from", "2", "--limit", "2", "--partition", str(partition)) == [2, 3]
    assert f"payments/{partition}@0" in run(capsys, tmp_path, "read", "payments", str(SHOP))
    assert "no topic" in run(capsys, tmp_path, "read", "payment", str(SHOP), code=2)

    store.store_positions("removed", "payments", {partition: 2})
    assert [line.split()[0] for line in left_behind(application, events)] == ["removed"]
    assert "removed" in run(capsys, tmp_path, "forget", "remove", str(SHOP), code=2)
    assert "declared" in run(capsys, tmp_path, "forget", "lake", str(SHOP), code=2)
    run(capsys, tmp_path, "forget", "removed", str(SHOP))
    assert {each[0] for each in store.consumers()} == {"lake"}
    assert "no partition 9" in run(
        capsys, tmp_path, "read", "payments", str(SHOP), "--partition", "9", code=2
    )

    (row,) = json.loads(run(capsys, tmp_path, "lag", str(SHOP), "--json"))
    assert (row["group"], row["lag"]) == ("lake", 3)
    assert "lake" in run(capsys, tmp_path, "lag", str(SHOP))

    assert "no transactions" in run(capsys, tmp_path, "transactions", str(SHOP))
    with store.database.transaction():
        (held,) = json.loads(run(capsys, tmp_path, "transactions", str(SHOP), "--json"))
    assert (held["id"], held["state"]) == ("events.db", "open")
    assert "no transaction hangs" in run(capsys, tmp_path, "transactions", "hanging", str(SHOP))
    refused = run(capsys, tmp_path, "transactions", "abort", "events.db", str(SHOP), code=2)
    assert "can't be aborted from outside" in refused
