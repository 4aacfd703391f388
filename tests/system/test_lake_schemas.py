"""The lake keeps events whose schemas it has to ask for, also when it could not ask at first."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from counterfoil.application import Application, StateFolder
from counterfoil.events import EmbeddedEvents, Message, RegistryUnavailable, Topic
from counterfoil.reports import Embedded, Lake
from counterfoil.supervisor import processes

PATIENCE = 60.0


class Sale(msgspec.Struct):
    id: str
    day: str


class Flaky:
    """A registry whose first answers do not come."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def schema(self, schema_id: int) -> Any:
        if self.refused < 2:
            self.refused += 1
            raise RegistryUnavailable("away")
        return self._registry.schema(schema_id)


def test_events_that_could_not_be_read_for_want_of_a_registry_are_in_the_lake_later(
    tmp_path: Path,
) -> None:
    events = EmbeddedEvents(tmp_path)
    later = msgspec.defstruct("Sale", [("id", str), ("day", str), ("note", str, "")])
    writer: Topic[Any] = Topic("sales", later, partitions=1, format="avro")
    app = Application("shop")
    table = app.store(app.topic("sales", Sale, partitions=1, format="avro"))
    log = events.log()
    log.declare(app.all_topics())
    log.declare([writer])
    value = writer.encode(later("1", "2026-03-01"))
    log.appender("test", 1).append([Message(1, "sales", "k", value, {}, 1)], 1)
    events.registry = flaky = Flaky(events.registry)  # type: ignore[assignment]
    host: Any = SimpleNamespace(
        events=lambda: events,
        application=app,
        state=StateFolder(tmp_path),
        reports=Embedded,
        ready=lambda: None,
        stop=threading.Event(),
    )
    running = threading.Thread(target=processes.lake, args=(host,))
    running.start()
    try:
        store, deadline = events.pipelines(), time.monotonic() + PATIENCE
        while store.positions("lake", "sales") != {0: 1}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        host.stop.set()
        running.join(PATIENCE)
    assert flaky.refused == 2
    stored = Lake(tmp_path / "lake").open(table)
    assert stored is not None and stored.to_pyarrow_table().num_rows == 1
