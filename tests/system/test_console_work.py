"""What the console answers about sagas, task queues and hot keys, on both engines of events."""

from pathlib import Path
from typing import Any

import pytest
from asking import ConsoleClient
from events.conftest import (  # noqa: F401 - fixtures, and the engines that they are tried on
    events,
    make_events,
    pytest_generate_tests,
)
from saga_rows import begin

from counterfoil.events import Events, KeyLoad, Record
from counterfoil.events.dead_letters import bury
from counterfoil.events.sagas.instances import Instances
from counterfoil.events.tasks.waiting import Taking
from counterfoil.supervisor import hot_keys
from counterfoil.supervisor.host import now_us

APPLICATION = """
import msgspec
from counterfoil.application import Application
from counterfoil.events import Topic

class Order(msgspec.Struct):
    id: int

app = Application("work")
orders = Topic("orders", Order, partitions=1)

@app.parallel("notify", orders)
async def notify(order: Order) -> int:
    return 1

@app.tasks("letters", Order)
def letters(order: Order) -> int:
    return 1

ordering = app.saga("ordering", orders)

@ordering.step()
def reserve(order, step):
    return 1
"""
LARGE = 9_007_199_254_740_993


@pytest.fixture
def console(events: Events, tmp_path: Path) -> ConsoleClient:  # noqa: F811
    (tmp_path / "slow_work.py").write_text(APPLICATION)
    (tmp_path / "counterfoil.toml").write_text(
        '[application]\nmodule = "slow_work:app"\n[services]\n'
    )
    found = ConsoleClient(tmp_path, tmp_path / ".counterfoil", events=events)
    events.log().declare(found.host.application.all_topics())
    return found


def test_sagas_come_in_pages_and_one_with_its_timeline(
    console: ConsoleClient,
    events: Events,  # noqa: F811
) -> None:
    store = events.pipelines()
    instances = Instances(store.database)
    with store.database.transaction():
        begin(instances, LARGE, 1)
        begin(instances, 2, 2, status="completed", ended_us=9)
        begin(instances, 3, 2, status="stuck")
    store.close()
    first = console.get("/api/sagas?limit=2")
    assert [each["id"] for each in first["sagas"]] == ["3", "2"]
    assert first["open"] == {"ordering": {"running": 1, "stuck": 1}}
    rest = console.get(f"/api/sagas?limit=2&before={first['next']}")
    assert [each["id"] for each in rest["sagas"]] == [str(LARGE)], "as a string: it is too large"
    assert (rest["next"], rest["open"]) == (None, None)
    assert console.get("/api/sagas?saga=other")["sagas"] == []
    (stuck,) = console.get("/api/sagas?status=stuck")["sagas"]
    assert stuck["id"] == "3"
    (shown,) = console.get("/api/sagas/3")
    assert shown["error"] == "TimeoutError: no carrier"
    lines = [(each["step"], each["outcome"], each["attempt"]) for each in shown["timeline"]]
    assert lines == [("reserve", "done", 1), ("charge", "failed", 1), ("charge", "failed", 2)]
    for path, status in (
        ("/4", 404),
        (f"/{1 << 70}", 404),
        ("?before=yesterday", 400),
        (f"?before=1-{1 << 63}-ordering", 400),
        ("?status=lost", 400),
        ("?limit=many", 400),
    ):
        assert console.send("GET", f"/api/sagas{path}").status_code == status, path
    console.leave()
    assert console.send("GET", "/api/sagas").status_code == 401


def test_task_queues_are_counted_with_what_was_given_up(
    console: ConsoleClient,
    events: Events,  # noqa: F811
) -> None:
    (empty,) = console.get("/api/tasks")
    assert (empty["queue"], empty["waiting"], empty["oldest_seconds"]) == ("letters", 0, None)
    store = events.pipelines()
    now = now_us()
    Taking(store.database, "letters")
    with store.database.transaction():
        store.database.execute(
            "INSERT INTO tasks (queue, level, visible_us, attempt, content, sent_us) "
            "VALUES ('letters', 0, ?, 0, ?, 1), ('letters', 2, ?, 0, ?, 1)",
            (now - 60_000_000, b"{}", now + 600_000_000, b"{}"),
        )
        record = Record("tasks.letters", 0, 0, 1, "", b"{}", {}, 0)
        bury(store, "tasks.letters", record, ValueError("no"), tries=5, now_us=now)
    store.close()
    (letters,) = console.get("/api/tasks")
    assert (letters["waiting"], letters["delayed"], letters["dead"]) == (1, 1, 1)
    assert letters["by_priority"] == {"high": 1, "normal": 0, "low": 0}
    assert 60 <= letters["oldest_seconds"] < 600


def test_hot_keys_are_what_the_process_has_told_and_old_ones_are_called_old(
    console: ConsoleClient,
) -> None:
    def shown() -> dict[str, Any]:
        (found,) = console.get("/api/topics")["hot_keys"]
        return found

    assert (shown()["pipeline"], shown()["at_us"], shown()["hot_keys"]) == ("notify", None, [])
    load = [KeyLoad("ada", 0.5, 0.001, 12)]
    hot_keys.tell(console.host.state, "notify", hot_keys.Told(now_us(), 20, load))
    assert shown()["hot_keys"] == [{"key": "ada", "share": 0.5, "error": 0.001, "waiting": 12}]
    assert (shown()["held"], shown()["stale"], shown()["behind"]) == (20, False, 0)
    long_ago = now_us() - int(2 * hot_keys.STALE_SECONDS * 1_000_000)
    hot_keys.tell(console.host.state, "notify", hot_keys.Told(long_ago, 20, load))
    assert shown()["stale"]
