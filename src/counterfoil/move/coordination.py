"""Moves the coordination data that must persist: the timestamp bound of each machine number.

Registrations, leases and leaderships are recreated at the next start.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from counterfoil.coordination import Client
from counterfoil.coordination.snowflake import BOUNDS
from counterfoil.events import Database
from counterfoil.events.sqlite import SqliteDatabase


def copy_bounds(path: Path, target: Client) -> None:
    """Copy the bounds of all machine numbers from the embedded node's file.

    Without them the next holder of a number could repeat an id of the last one.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
        for key, value in source.execute(
            "SELECT key, value FROM keys WHERE substr(key, 1, ?) = ?", (len(BOUNDS), BOUNDS)
        ).fetchall():
            target.put(key, value)


def forget_tokens(path: Path, pipelines: Database) -> None:
    """Reset the fencing tokens of the log and the sagas: those of the new store start low again.

    `path` is the embedded log's file, and `pipelines` the pipelines' database after the move. This
    is safe because nothing runs during a move, so there is no holder of an old token.
    """
    with closing(SqliteDatabase(path)) as log:
        log.execute("UPDATE sources SET fencing_token = 0")
    with pipelines.transaction():
        pipelines.execute("UPDATE saga_coordinators SET fencing_token = 0")
