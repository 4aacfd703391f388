"""The transfers of one commit, buffered and posted together.

A transfer's id decides whether it was posted before. To avoid a look-up for each, a commit first
assumes that none was, posts all with one statement, and compares the row count. If it is too small
(`Repeated`), the commit is rolled back and its events are handled again one by one, with look-ups
(`careful`). Repetitions are rare: after a change of engines, or a replay.

Account sums are updated in the order of the accounts' names, and commits that post are serialised,
so they can't deadlock.

A guarded account must not be overdrawn. Its balance is read once in a commit, to which the buffered
transfers are added. A transfer that would overdraw it is rejected at once, so that the handler can
decide what to do. A commit that has met no guarded account takes no lock until it posts; if an
account has been guarded by then, the commit is rolled back and its events are handled again.
"""

from collections.abc import Callable, Sequence
from typing import Final

from counterfoil.events.database import Cursor, Database
from counterfoil.events.errors import Contended, EventsError, LedgerConflict, Overdrawn
from counterfoil.events.ledger.entries import Account, Meaning, Row, Side

Execute = Callable[[str, Sequence[object]], Cursor]
INSERT: Final = (
    "INSERT INTO ledger_transfers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO NOTHING"
)
ADD: Final = (
    "INSERT INTO ledger_accounts VALUES (?, ?, ?, ?) ON CONFLICT (name, currency) "
    "DO UPDATE SET debits = ledger_accounts.debits + excluded.debits, "
    "credits = ledger_accounts.credits + excluded.credits"
)


class Repeated(EventsError):
    """Some transfers of a commit were posted before; which ones is unknown."""


class Sums(dict[Account, list[int]]):
    """Debits and credits by account."""

    def add(self, row: Row, sign: int = 1) -> None:
        """Add a transfer's amount, or subtract it if `sign` is -1."""
        transfer = row.transfer
        amount = sign * transfer.amount
        self.setdefault((transfer.debit, transfer.currency), [0, 0])[0] += amount
        self.setdefault((transfer.credit, transfer.currency), [0, 0])[1] += amount

    def merge(self, other: "Sums") -> None:
        """Add other sums."""
        for account, (debits, credits) in other.items():
            both = self.setdefault(account, [0, 0])
            both[0] += debits
            both[1] += credits


class Book:
    """What handlers have posted since the last commit.

    `execute` runs a statement in the running handler's savepoint.
    """

    def __init__(self, database: Database, execute: Execute) -> None:
        self.execute = execute
        self._database = database
        self._handler: dict[int, Row] = {}
        self._commit: dict[int, Row] = {}
        self._handler_sums, self._commit_sums = Sums(), Sums()
        self._entered = False
        self._careful = False
        self._guarded: bool | None = None
        self._trusting = False
        """Whether transfers were accepted on the assumption that no account is guarded."""
        self._sides: dict[Account, Side | None] = {}
        self._written: dict[Account, tuple[int, int]] = {}
        """Debits and credits of guarded accounts in the database, including holds."""

    def begin(self, *, careful: bool) -> None:
        """A transaction has begun; `careful` looks up each id."""
        self._commit.clear()
        self._commit_sums.clear()
        self._careful = careful
        self._trusting = False
        self.undo()

    def post(self, rows: Sequence[Row]) -> bool:
        """Buffer transfers, all or none; False if exactly these were posted before.

        Raises:
            LedgerConflict: an id belongs to another transfer, or only some were posted before.
            Overdrawn: they would overdraw a guarded account.
        """
        try:
            return self._take(rows, ask=self._careful)
        except Overdrawn:
            if self._careful:
                raise
            return self._take(rows, ask=True)  # they may have been posted before

    def find(self, number: int, *, ask: bool = True) -> Meaning | None:
        """The transfer with an id; the database is searched only if `ask`."""
        row = self._handler.get(number) or self._commit.get(number)
        if row is not None:
            return row.meaning
        if not ask:
            return None
        self.enter()
        return self._database.execute(
            "SELECT debit, credit, amount, currency, code, corrects, hold FROM ledger_transfers "
            "WHERE id = ?",
            (number,),
        ).fetchone()

    def corrections(self, number: int) -> list[Row]:
        """The buffered corrections of a transfer."""
        rows = [*self._handler.values(), *self._commit.values()]
        return [row for row in rows if row.corrects == number]

    def spendable(self, account: Account, side: Side) -> int | None:
        """The balance, in minor units, of an account that is guarded on `side`; else None."""
        return self._has(account, side) if self._side(account) == side else None

    def guard(self, account: Account, side: Side, now_us: int) -> bool:
        """Guard an account against overdrafts from now on; False if it is guarded already.

        Raises:
            LedgerConflict: it is guarded on its other side.
            Overdrawn: it is overdrawn now.
            Contended: another commit has guarded an account meanwhile.
        """
        self.enter_now()
        known = self._side(account)
        self._see_unguarded()
        if known is not None:
            if known != side:
                raise LedgerConflict(f"{account[0]} is guarded as growing on its {known} side")
            return False
        has = self._has(account, side)
        if has < 0:
            raise Overdrawn(f"{account[0]} is overdrawn by {-has} {account[1]} (minor units)")
        insert = "INSERT INTO ledger_guards VALUES (?, ?, ?, ?)"
        self.execute(insert, (*account, side, now_us))
        self.forget()
        return True

    def forget(self) -> None:
        """Clear the cache of guarded accounts: the database has changed."""
        self._guarded = None
        self._sides.clear()
        self._written.clear()

    def enter(self) -> None:
        """Take the ledger's exclusive lock, unless it is held."""
        if not self._entered:
            self._database.exclusive("ledger")
            self._entered = True

    def enter_now(self) -> None:
        """Open the running handler's savepoint, and take the lock inside it."""
        self.execute("SELECT 1", ())
        self.enter()

    def accept(self) -> None:
        """The handler has succeeded."""
        if self._handler:
            self._commit.update(self._handler)
            self._commit_sums.merge(self._handler_sums)
            self._handler.clear()
            self._handler_sums.clear()

    def undo(self) -> None:
        """The handler has failed; a lock taken inside its savepoint is released with that."""
        self._handler.clear()
        self._handler_sums.clear()
        self._entered = False
        self.forget()

    def flush(self) -> None:
        """Write what handlers have posted.

        Raises:
            Repeated: some transfers were posted before; roll the transaction back.
            Contended: an account was guarded meanwhile; roll the transaction back.
        """
        if not self._commit:
            return
        self.enter()
        self._see_unguarded()
        posted = self._database.executemany(INSERT, [row.columns for row in self._commit.values()])
        if posted != len(self._commit):
            raise Repeated(f"{len(self._commit) - posted} transfers were posted before")
        sums = sorted(self._commit_sums.items())
        self._database.executemany(ADD, [(*account, *both) for account, both in sums])
        for account, (debits, credits) in self._written.items():
            more = self._commit_sums.get(account, (0, 0))
            self._written[account] = (debits + more[0], credits + more[1])
        self._commit.clear()
        self._commit_sums.clear()

    def _take(self, rows: Sequence[Row], *, ask: bool) -> bool:
        new = [row for row in rows if self._is_new(row, ask=ask)]
        if not new:
            return False
        if len(new) != len(rows) or len({row.transfer.id for row in rows}) != len(rows):
            raise LedgerConflict("some of the linked transfers were posted before")
        for row in new:
            self._handler[row.transfer.id] = row
            self._handler_sums.add(row)
        try:
            for row in new:
                self._check(row)
        except BaseException:
            for row in new:
                del self._handler[row.transfer.id]
                self._handler_sums.add(row, -1)
            raise
        return True

    def _is_new(self, row: Row, *, ask: bool) -> bool:
        number = row.transfer.id
        earlier = self.find(number, ask=ask)
        if earlier is None or earlier == row.meaning:
            return earlier is None
        raise LedgerConflict(f"transfer {number} was posted as {earlier}, not as {row.meaning}")

    def _check(self, row: Row) -> None:
        transfer = row.transfer
        spending: tuple[tuple[str, Side], ...] = (
            (transfer.debit, "credit"),
            (transfer.credit, "debit"),
        )
        for name, spent in spending:
            left = self.spendable((name, transfer.currency), spent)
            if left is not None and left < 0:
                raise Overdrawn(
                    f"{name} lacks {-left} {transfer.currency} (minor units) "
                    f"for transfer {transfer.id}",
                    hint="refuse what asked for it, or let more come in first",
                )

    def _has(self, account: Account, side: Side) -> int:
        if account not in self._written:
            self.enter()
            self._written[account] = _written(self._database, account, side)
        debits, credits = self._written[account]
        for sums in (self._commit_sums, self._handler_sums):
            more = sums.get(account)
            if more is not None:
                debits, credits = debits + more[0], credits + more[1]
        return credits - debits if side == "credit" else debits - credits

    def _side(self, account: Account) -> Side | None:
        """The side on which a guarded account grows, or None; one query if there are no guards."""
        if self._guarded is None:
            self._guarded = self._any_guarded()
        if not self._guarded:
            self._trusting = True
            return None
        if account not in self._sides:
            self.enter()  # or another commit could guard it after this query
            row: tuple[Side] | None = self._database.execute(
                "SELECT side FROM ledger_guards WHERE name = ? AND currency = ?", account
            ).fetchone()
            self._sides[account] = None if row is None else row[0]
        return self._sides[account]

    def _any_guarded(self) -> bool:
        return self._database.execute("SELECT 1 FROM ledger_guards LIMIT 1").fetchone() is not None

    def _see_unguarded(self) -> None:
        """Check, holding the lock, that the assumption of no guarded accounts still holds."""
        if self._trusting and self._any_guarded():
            raise Contended("another commit has guarded an account that may be overdrawn by this")
        self._trusting = False


def _written(database: Database, account: Account, side: Side) -> tuple[int, int]:
    """An account's posted sums, with holds counted on the side that spends."""
    where = "WHERE name = ? AND currency = ?"
    posted = f"SELECT debits, credits FROM ledger_accounts {where}"  # noqa: S608
    debits, credits = database.execute(posted, account).fetchone() or (0, 0)
    held = f"SELECT debits, credits FROM ledger_held {where}"  # noqa: S608
    held_debits, held_credits = database.execute(held, account).fetchone() or (0, 0)
    return (debits + held_debits, credits) if side == "credit" else (debits, credits + held_credits)
