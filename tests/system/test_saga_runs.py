"""What is declared runs in the process tree: sagas, a parallel pipeline, a task queue."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from running import COUNTERFOIL

from counterfoil.events import EmbeddedEvents, Message, Topic, trial_balance

PAGE = Path(__file__).parents[2] / "docs" / "sagas.md"
DANCE = """
dance = app.choreography("charging", charges, timeout_seconds=3600)
dance.tells(charged, "charge", ends="completed")


@app.parallel("notify", charged)
async def notify(event: Charged) -> int:
    return 1


@notify.then
def told(event: Charged, number: int, context: Context) -> None:
    context.ledger.transfer(
        id=1, debit="told", credit="all", amount=number, currency="TOLD", code="told"
    )
    letters.send(context, Charged(True))


@app.tasks("letters", Charged)
def letters(task: Charged) -> int:
    return 1


@letters.then
def sent(task: Charged, number: int, context: Context) -> None:
    context.ledger.transfer(
        id=2, debit="sent", credit="all", amount=number, currency="SENT", code="sent"
    )
"""
PATIENCE_SECONDS = 60


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Path]:
    """The example of docs/sagas.md, running."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "orders.py").write_text(example + DANCE)
    (tmp_path / "counterfoil.toml").write_text('[application]\nmodule = "orders:app"\n[services]\n')
    process = subprocess.Popen(
        [COUNTERFOIL, "up", str(tmp_path), "--free-ports"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("console"):
            break
    yield tmp_path
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def ask(application: Path, *command: str) -> list[dict[str, Any]]:
    asked = [COUNTERFOIL, "events", *command, str(application), "--json"]
    return json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def test_both_styles_show_their_timelines_and_work_goes_in_parallel(
    application: Path,
) -> None:
    log = EmbeddedEvents(application / ".counterfoil").log()
    log.declare([Topic("orders", dict)])
    content = b'{"id":7,"customer":"ada","amount":500}'
    log.appender("clients", 1).append([Message(7, "orders", "ada", content, {}, 1)], 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while [each["status"] for each in ask(application, "sagas")] != ["completed"] * 2:
        assert time.monotonic() < deadline, ask(application, "sagas")
    shown = {each["style"]: each["timeline"] for each in ask(application, "saga", "7")}
    assert [line["outcome"] for line in shown["orchestration"]] == ["done", "asked", "done"]
    assert [line["outcome"] for line in shown["choreography"]] == ["begun", "done"]
    with closing(EmbeddedEvents(application / ".counterfoil").pipelines()) as store:
        while trial_balance(store.database).get("SENT") != (1, 1):
            assert time.monotonic() < deadline
        assert trial_balance(store.database)["TOLD"] == (1, 1)
    while not (hot := ask(application, "hot-keys")[0])["hot_keys"]:
        assert time.monotonic() < deadline, hot
    assert (hot["pipeline"], hot["behind"], hot["hot_keys"][0]["share"]) == ("notify", 0, 1.0)
    (queue,) = ask(application, "tasks")
    assert (queue["queue"], queue["waiting"], queue["dead"]) == ("letters", 0, 0)
    plain = [COUNTERFOIL, "events", "saga", "7", str(application)]
    table = subprocess.run(plain, check=True, capture_output=True, text=True).stdout
    assert "completed" in table
    assert "reserve" in table
