"""What SQLite does otherwise than one would think."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from counterfoil.events import StoreUnavailable
from counterfoil.events.sqlite import SqliteDatabase


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    def use(path: Path) -> None:
        with closing(SqliteDatabase(path)) as database:
            database.create(["CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY) STRICT"])
            with database.transaction():
                database.execute("INSERT INTO rows DEFAULT VALUES")

    with ThreadPoolExecutor(6) as pool:
        for number in range(60):  # where it isn't seen to, one of forty such files is refused
            path = tmp_path / f"{number}.db"
            list(pool.map(use, [path] * 12))
            with closing(SqliteDatabase(path)) as database:
                assert database.execute("SELECT count(*) FROM rows").fetchone() == (12,)


def test_a_damaged_file_is_no_fault_of_who_reads_or_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    with closing(SqliteDatabase(path)) as database:
        database.create(["CREATE TABLE rows (id INTEGER PRIMARY KEY, content BLOB) STRICT"])
        database.executemany(
            "INSERT INTO rows VALUES (?, ?)", [(number, b"x" * 500) for number in range(100)]
        )
    content = path.read_bytes()
    pages = range(4_096, len(content), 4_096)
    path.write_bytes(content[: pages[0]] + b"\xff" * (len(content) - pages[0]))
    with closing(SqliteDatabase(path)) as database:
        with pytest.raises(StoreUnavailable, match="malformed"):
            database.execute("SELECT * FROM rows WHERE id = 50")
        with pytest.raises(StoreUnavailable, match="malformed"):
            database.executemany("INSERT INTO rows VALUES (?, ?)", [(1_000, b"x")])
