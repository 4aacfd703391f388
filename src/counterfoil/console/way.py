"""Live reconciliation for the console: accepted = posted = stored = reported.

Old numbers say nothing about now: while a store can't be read, the state is `unknown`, with the
reason and the numbers' age. A page that still showed `equal` would mislead when it matters most.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import msgspec
import structlog

from counterfoil.application import Counterfoils
from counterfoil.proof.reconcile import Sum, report_days
from counterfoil.proof.stores import Rows, Stores
from counterfoil.reports import Lake

STEPS: Final = ("accepted", "posted", "stored", "reported")
HISTORY: Final = 300
"""Points of the chart, about one per second."""
STUCK_SECONDS: Final = 30.0
"""Without any progress for this long, what is missing counts as lost, not as under way."""
REST: Final = 4
"""The pause between two checks, as a multiple of a check's duration, and at least a second: checks
take at most a fifth of a core, however large the tables are."""

END_SECONDS: Final = 2.0
"""How long to wait at the end for a check under way."""
LATE_SECONDS: Final = 10.0
"""A check this late, beyond its pause and three times the last one's duration, is overdue: longer
than delays on a busy machine, and shorter than old numbers should be shown."""

State = Literal["equal", "under way", "broken", "unknown"]


class Point(msgspec.Struct, frozen=True):
    """The sums of all steps at one time (seconds of a monotonic clock)."""

    seconds: float
    sums: tuple[Sum, ...]


def judge(sums: Sequence[Sum], still_seconds: float) -> State:
    """The state, given the sums of the steps in order, unchanged for `still_seconds`.

    The sums must be read from the last step to the first, so that a payment under way never
    appears in a later step without appearing in the earlier ones.
    """
    if all(each == sums[0] for each in sums):
        return "equal"
    for earlier, later in itertools.pairwise(sums):
        if later.count > earlier.count:
            return "broken"
        if later.count == earlier.count and later.amount != earlier.amount:
            return "broken"
    return "broken" if still_seconds > STUCK_SECONDS else "under way"


class Way:
    """Checks all steps repeatedly, in its own thread, while `looking`."""

    def __init__(self, counterfoils: Counterfoils, stores: Stores) -> None:
        self._counterfoils = counterfoils
        self._stores = stores
        self._lake = Lake(stores.state.lake)
        self._files: dict[str, tuple[int, int]] = {}
        self._points: deque[Point] = deque(maxlen=HISTORY)
        self._moved = self._equal = time.monotonic()
        self._due = time.monotonic() + LATE_SECONDS
        """When the next check must be complete."""
        self._trouble = ""
        """The error of the last check, if it failed."""

    @contextmanager
    def looking(self) -> Generator[None, None, None]:
        """Check until the end of the block; a check that hangs on a store may outlast it."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), name="way", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(END_SECONDS)

    def document(self) -> dict[str, object]:
        """State, sums and rates for the page."""
        points, now = list(self._points), time.monotonic()
        if not points:
            return {**NOTHING, "matches": True, "trouble": self._trouble}
        last = points[-1]
        state = "unknown" if now > self._due else judge(last.sums, now - self._moved)
        earlier = points[max(len(points) - 4, 0)]
        elapsed = max(last.seconds - earlier.seconds, 0.001)
        return {
            "state": state,
            "matches": True,
            "looked_seconds_ago": round(now - last.seconds, 1),
            "trouble": self._trouble,
            "under_way_seconds": 0 if state == "equal" else round(now - self._equal, 1),
            "way": [
                {
                    "step": step,
                    "count": each.count,
                    "amount": each.amount,
                    "per_second": round((each.count - before.count) / elapsed, 1),
                    "behind": last.sums[0].count - each.count,
                }
                for step, each, before in zip(STEPS, last.sums, earlier.sums, strict=True)
            ],
            "history": history(points, time.time() - now),
        }

    def _look(self, stop: threading.Event) -> None:
        while not stop.is_set():
            started = time.monotonic()
            try:
                sums = self._sums()
            except Exception as error:
                # Any store may be unavailable, locked or not yet created; the next check may work.
                structlog.get_logger().warning("look_failed", error=repr(error))
                self._trouble = f"{type(error).__name__}: {error}"
                stop.wait(1.0)
                continue
            now = time.monotonic()
            if self._trouble and self._points:
                # There were no checks meanwhile: the time without progress doesn't count.
                self._moved += now - self._points[-1].seconds
            self._trouble = ""
            if not self._points or self._points[-1].sums != sums:
                self._moved = now
            if judge(sums, 0) == "equal":
                self._equal = now
            self._points.append(Point(now, sums))
            took = now - started
            rest = max(1.0, REST * took)
            self._due = now + rest + 3 * took + LATE_SECONDS
            stop.wait(rest)

    def _sums(self) -> tuple[Sum, ...]:
        """Reads from the last step to the first; see `judge`."""
        reported = report_days(self._counterfoils, self._stores.state).values()
        found = [
            Sum(sum(day.count for day in reported), sum(day.amount for day in reported)),
            self._in_lake(),
            self._in_ledger(),
            self._in_service(),
        ]
        return tuple(reversed(found))

    def _in_lake(self) -> Sum:
        self._files = self._lake.sums_by_file(
            self._counterfoils.stored, self._counterfoils.amount, self._files
        )
        sums = self._files.values()
        return Sum(sum(count for count, _ in sums), sum(amount for _, amount in sums))

    def _in_ledger(self) -> Sum:
        return _sum(
            self._stores.pipelines(
                "SELECT count(*), sum(amount) FROM ledger_transfers WHERE code = ?",
                self._counterfoils.posted,
            )
        )

    def _in_service(self) -> Sum:
        found = self._counterfoils
        sql = f"SELECT count(*), sum({found.amount}) FROM {found.rows}"  # noqa: S608
        return _sum(self._stores.service(found.service, sql))


def _sum(rows: Rows) -> Sum:
    """Count and sum; zeros if there is no table yet."""
    count, amount = rows[0] if rows else (0, 0)
    return Sum(count, int(amount or 0))


def history(points: Sequence[Point], wall_offset: float) -> dict[str, list[float]]:
    """Rates between consecutive points, at seconds since 1970."""
    found: dict[str, list[float]] = {"seconds": [], **{step: [] for step in STEPS}}
    for before, after in itertools.pairwise(points):
        elapsed = max(after.seconds - before.seconds, 0.001)
        found["seconds"].append(round(after.seconds + wall_offset, 1))
        for step, old, new in zip(STEPS, before.sums, after.sums, strict=True):
            found[step].append(round((new.count - old.count) / elapsed, 1))
    return found


NOTHING: Final[dict[str, object]] = {
    "state": "unknown",
    "matches": False,
    "looked_seconds_ago": None,
    "trouble": "",
    "under_way_seconds": 0,
    "way": [],
    "history": history([], 0),
}
"""The document of an application that declares nothing to match and, with `matches` set, of one
that does before its first check."""
