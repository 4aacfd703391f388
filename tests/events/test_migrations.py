"""Changes of a service's tables: in order, once, whole, by one at a time; on both databases."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from counterfoil import AGGREGATE_SCHEMA, Migration
from counterfoil.engines import RunningEngine
from counterfoil.events import (
    Database,
    EmbeddedEvents,
    Events,
    KafkaEvents,
    MigrationRefused,
    create_service,
)
from counterfoil.events.scripts import statements

ORDERS = "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)"
NOTE = Migration("add a note", "ALTER TABLE orders ADD COLUMN note TEXT", expands=True)
FILL = Migration(
    "note what is large",
    "CREATE TABLE large (id INTEGER PRIMARY KEY);"
    "INSERT INTO large SELECT id FROM orders WHERE amount > 100;"
    "UPDATE orders SET note = 'large; 100%' WHERE amount > 100",
)
RENAME = Migration("call them purchases", "ALTER TABLE orders RENAME TO purchases")

Open = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgres"])
def events(
    request: pytest.FixtureRequest, tmp_path: Path, engine: Callable[[str], RunningEngine]
) -> Events:
    """An application of its own, on either engine."""
    if cast("str", request.param) == "sqlite":
        return EmbeddedEvents(tmp_path)
    running = engine("postgres")
    return KafkaEvents("nowhere:1", running.address, running.secret, uuid.uuid4().hex)


@pytest.fixture
def database(events: Events) -> Iterator[Database]:
    with closing(events.service("shop")) as database:
        yield database


def bring(
    database: Database, *migrations: Migration, schema: tuple[str, ...] = (ORDERS,), at: int = 5
) -> list[str]:
    """Migrate, and say what was done."""
    return [each.what for each in create_service(database, schema, migrations, lambda: at)]


def rows(database: Database, sql: str) -> list[tuple[object, ...]]:
    return database.execute(sql).fetchall()


def test_each_is_applied_once_in_order_and_recorded(database: Database) -> None:
    assert bring(database, NOTE) == ["the schema", "add a note"]
    database.execute("INSERT INTO orders VALUES (1, 50, NULL), (2, 500, NULL)")
    assert bring(database, NOTE, FILL, at=6) == ["note what is large"]
    assert bring(database, NOTE, FILL, at=7) == []
    assert rows(database, "SELECT id FROM large") == [(2,)]
    assert rows(database, "SELECT note FROM orders ORDER BY id") == [(None,), ("large; 100%",)]
    assert rows(database, "SELECT number, what, expands, applied_us FROM migrations") == [
        (0, "the schema", 0, 5),
        (1, "add a note", 1, 5),
        (2, "note what is large", 0, 6),
    ]


def test_tables_that_were_there_before_go_on_from_what_they_are(database: Database) -> None:
    for _ in range(2):
        assert bring(database) == [], "without migrations the schema runs each time"
    database.execute("INSERT INTO orders VALUES (1, 500)")
    assert bring(database, NOTE, FILL) == ["the schema", "add a note", "note what is large"]
    assert rows(database, "SELECT note FROM orders") == [("large; 100%",)]


def test_a_table_that_was_renamed_is_not_made_anew_by_the_schema(database: Database) -> None:
    bring(database, RENAME)
    assert bring(database, RENAME) == []
    with pytest.raises(Exception, match="orders"):
        database.execute("SELECT * FROM orders")
    assert rows(database, "SELECT count(*) FROM purchases") == [(0,)]


@pytest.mark.parametrize(
    ("migrations", "schema", "says"),
    [
        ((NOTE, RENAME), (ORDERS,), r"migration 2 \(note what is large\) was changed"),
        ((FILL,), (ORDERS,), r"migration 1 \(add a note\) was changed, moved or removed"),
        ((NOTE,), (ORDERS,), r"ahead of this application, which has no migration 2 \(note what"),
        ((), (ORDERS,), "ahead of this application"),
        ((NOTE, FILL), (ORDERS, "CREATE TABLE b (id INTEGER)"), "the schema was changed"),
    ],
)
def test_what_was_applied_has_to_be_what_is_declared(
    database: Database, migrations: tuple[Migration, ...], schema: tuple[str, ...], says: str
) -> None:
    bring(database, NOTE, FILL)
    with pytest.raises(MigrationRefused, match=says):
        bring(database, *migrations, schema=schema)
    assert bring(database, NOTE, FILL) == [], "nothing was changed by that"


def test_how_a_statement_is_written_is_no_change_and_nor_is_what_belongs_to_counterfoil(
    database: Database,
) -> None:
    bring(database, NOTE)
    broken = Migration("a note", "ALTER TABLE orders\n    ADD COLUMN note TEXT;\n-- as asked for")
    assert bring(database, broken, schema=(AGGREGATE_SCHEMA, ORDERS)) == []


def test_the_version_before_runs_on_beside_migrations_that_expand(database: Database) -> None:
    bring(database, NOTE)
    assert bring(database) == []
    database.execute("INSERT INTO orders (id, amount) VALUES (1, 50)")
    bring(database, NOTE, FILL)
    with pytest.raises(MigrationRefused, match="ahead"):
        bring(database)


def test_of_one_that_fails_nothing_stands_and_it_may_be_corrected(database: Database) -> None:
    wrong = Migration(
        "move", "ALTER TABLE orders RENAME TO purchases", "INSERT INTO nowhere VALUES (1)"
    )
    with pytest.raises(MigrationRefused, match=r"migration 2 \(move\) failed.*nowhere"):
        bring(database, NOTE, wrong, FILL)
    assert rows(database, "SELECT count(note) FROM orders") == [(0,)]
    assert rows(database, "SELECT max(number) FROM migrations") == [(1,)]
    assert bring(database, NOTE, FILL) == ["note what is large"]


def test_of_many_that_start_at_once_one_applies_each(events: Events) -> None:
    counted = Migration("count", "CREATE TABLE counts (n INTEGER)", "INSERT INTO counts VALUES (1)")
    again = Migration("count on", "UPDATE counts SET n = n + 1")

    def start(_: int) -> list[str]:
        with closing(events.service("shop")) as database:
            return bring(database, counted, again)

    with ThreadPoolExecutor(8) as pool:
        done = [what for each in pool.map(start, range(8)) for what in each]
    assert sorted(done) == ["count", "count on", "the schema"]
    with closing(events.service("shop")) as database:
        assert rows(database, "SELECT n FROM counts") == [(2,)]


KILLED = """
import os, sys
from pathlib import Path
from counterfoil import Migration
from counterfoil.events import EmbeddedEvents, KafkaEvents, create_service
kind, place, secret, application = sys.argv[1:]
events = (
    EmbeddedEvents(Path(place)) if kind == "sqlite"
    else KafkaEvents("nowhere:1", place, secret, application)
)
begin = Migration("begin", "CREATE TABLE begun (id INTEGER)")
make = Migration("make", "CREATE TABLE made (id INTEGER)", "INSERT INTO made VALUES (1)")
database = events.service("shop")
create_service(database, [], [begin], lambda: 5)
Path(os.environ["COUNTERFOIL_FAULTS"], "migration.before-commit").write_text(sys.stdin.read())
create_service(database, [], [begin, make], lambda: 5)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_whoever_is_killed_within_one_leaves_nothing_of_it(
    kind: str, tmp_path: Path, engine: Callable[[str], RunningEngine]
) -> None:
    name, faults = uuid.uuid4().hex, tmp_path / "faults"
    faults.mkdir()
    events: Events = EmbeddedEvents(tmp_path)
    arguments = [kind, str(tmp_path), "", name]
    if kind == "postgres":
        running = engine("postgres")
        events = KafkaEvents("nowhere:1", running.address, running.secret, name)
        arguments[1:3] = [running.address, running.secret]
    command = [sys.executable, "-c", KILLED, *arguments]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(faults)}
    killed = subprocess.run(command, env=environment, input="kill", text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    with closing(events.service("shop")) as database:
        assert rows(database, "SELECT count(*) FROM migrations") == [(2,)]
        with pytest.raises(Exception, match="made"):
            database.execute("SELECT * FROM made")
        begin = Migration("begin", "CREATE TABLE begun (id INTEGER)")
        make = Migration("make", "CREATE TABLE made (id INTEGER)", "INSERT INTO made VALUES (1)")
        assert [each.what for each in create_service(database, [], [begin, make], int)] == ["make"]
        assert rows(database, "SELECT id FROM made") == [(1,)]


@pytest.mark.parametrize("word", ["BEGIN", "commit", "Rollback", "SAVEPOINT a", "END"])
def test_a_migration_can_not_end_its_own_transaction(word: str) -> None:
    with pytest.raises(MigrationRefused, match=word.split()[0].upper()):
        Migration("a trick", f"DROP TABLE orders; /* now */ {word}")


def test_a_migration_without_a_statement_is_a_mistake() -> None:
    with pytest.raises(MigrationRefused, match="does nothing"):
        Migration("later", "-- not yet", " ; ")


def test_a_script_is_divided_where_statements_end_and_nowhere_else() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; DELETE FROM c; END"
    script = f"-- one; two\nINSERT INTO a VALUES (';');;\n{trigger};\n/* ; */ SELECT 1 -- done"
    assert list(statements(script)) == [
        "-- one; two\nINSERT INTO a VALUES (';')",
        trigger,
        "/* ; */ SELECT 1 -- done",
    ]


def test_a_schema_that_is_no_sql_is_refused_by_what_the_database_says(database: Database) -> None:
    with pytest.raises(MigrationRefused, match=r"the schema can't be applied: .*CREAT"):
        bring(database, schema=("CREAT TABLE orders (id INTEGER)",))
