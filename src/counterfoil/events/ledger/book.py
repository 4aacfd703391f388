"""The transfers of one commit: held in memory, then posted together.

A transfer's id decides whether it was posted before. Asking for each would be a look-up each; so a
commit first trusts that none was, posts all with one statement, and counts. A count that is too
small is `Repeated`: the commit is undone and its events are handled again, each by itself, and the
book then asks (`careful`). Streams repeat themselves rarely, after a change of engines or a replay.

Sums are added account by account in the order of their names, and commits that post do so one
after the other: no two of them can wait for each other.
"""

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError, LedgerConflict

Content = tuple[str, str, int, str, str]
"""Debit, credit, amount, currency, code: what an id stands for."""
Row = tuple[int, str, str, int, str, str, str, int, int, int]


class Repeated(EventsError):
    """Some transfers of a commit were posted before; nobody asked which."""


class Book:
    """What handlers have posted since the last commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._handler: dict[int, Row] = {}
        self._commit: dict[int, Row] = {}
        self._entered = False
        self.careful = False
        """Whether to ask for each id."""

    def post(self, row: Row) -> bool:
        """Take a transfer; False if this very transfer was posted before.

        Raises:
            LedgerConflict: the id belongs to another transfer.
        """
        number, content = row[0], row[1:6]
        earlier = self._find(number)
        if earlier is None:
            self._handler[number] = row
            return True
        if earlier == content:
            return False
        raise LedgerConflict(f"transfer {number} was posted as {earlier}, not as {content}")

    def accept(self) -> None:
        """The handler has come to its end."""
        if self._handler:
            self._commit.update(self._handler)
            self._handler.clear()

    def undo(self) -> None:
        """The handler has failed."""
        self._handler.clear()

    def flush(self) -> None:
        """Write what handlers have posted.

        Raises:
            Repeated: some of it was there already; the transaction must be rolled back.
        """
        if not self._commit:
            return
        self._enter()
        posted = self._database.executemany(
            "INSERT INTO ledger_transfers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            self._commit.values(),
        )
        if posted != len(self._commit):
            raise Repeated(f"{len(self._commit) - posted} transfers were posted before")
        sums: dict[tuple[str, str], list[int]] = {}
        for _, debit, credit, amount, currency, *_ in self._commit.values():
            sums.setdefault((debit, currency), [0, 0])[0] += amount
            sums.setdefault((credit, currency), [0, 0])[1] += amount
        self._database.executemany(
            "INSERT INTO ledger_accounts VALUES (?, ?, ?, ?) ON CONFLICT (name, currency) "
            "DO UPDATE SET debits = ledger_accounts.debits + excluded.debits, "
            "credits = ledger_accounts.credits + excluded.credits",
            [(*account, *both) for account, both in sorted(sums.items())],
        )
        self._commit.clear()

    def begin(self, *, careful: bool) -> None:
        """A transaction has begun."""
        self._handler.clear()
        self._commit.clear()
        self._entered = False
        self.careful = careful

    def _find(self, number: int) -> Content | None:
        row = self._handler.get(number) or self._commit.get(number)
        if row is not None:
            return row[1:6]
        if not self.careful:
            return None
        self._enter()
        return self._database.execute(
            "SELECT debit, credit, amount, currency, code FROM ledger_transfers WHERE id = ?",
            (number,),
        ).fetchone()

    def _enter(self) -> None:
        if not self._entered:
            self._database.exclusive("ledger")
            self._entered = True
