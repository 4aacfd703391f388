"""Moves what must outlive a coordination store: until when each machine number was used.

Registrations, leases and leaderships are made anew by whoever starts.
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

    Without them a number's next holder could make an id that its last one has made.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:
        for key, value in source.execute(
            "SELECT key, value FROM keys WHERE substr(key, 1, ?) = ?", (len(BOUNDS), BOUNDS)
        ).fetchall():
            target.put(key, value)


def forget_tokens(path: Path, pipelines: Database) -> None:
    """Let the log and the sagas take the new store's fencing tokens, which begin at the bottom.

    `path` is the embedded log's file, and `pipelines` where pipelines keep what they know now. That
    is safe because nobody who holds an old token is alive: nothing runs during a move.
    """
    with closing(SqliteDatabase(path)) as log:
        log.execute("UPDATE sources SET fencing_token = 0")
    with pipelines.transaction():
        pipelines.execute("UPDATE saga_coordinators SET fencing_token = 0")
