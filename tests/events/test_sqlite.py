"""What SQLite does otherwise than one would think."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

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
