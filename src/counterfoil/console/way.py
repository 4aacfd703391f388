"""Live reconciliation for the console: accepted = posted = stored = reported.

What was seen last says nothing of now: while a store can't be read, the state is `unknown`, with
why and how old the numbers are. A page that went on saying `equal` would be wrong when it matters.
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
"""Points of the chart, about one a second."""
STUCK_SECONDS: Final = 30.0
"""Without any progress for this long, what is missing counts as lost, not as under way."""
REST: Final = 4
"""Between two looks the console rests this many times longer than the look took, and never less
than a second: at most a fifth of a core, however large the tables are."""

END_SECONDS: Final = 2.0
"""That the end waits for a look that is under way."""
LATE_SECONDS: Final = 10.0
"""A look that is this late, after its rest and three times the time the last one took, is overdue:
longer than a busy machine holds one up, and shorter than anybody should be told of old numbers."""

State = Literal["equal", "under way", "broken", "unknown"]


class Point(msgspec.Struct, frozen=True):
    """The sums of all steps at one moment (seconds of a monotonic clock)."""

    seconds: float
    sums: tuple[Sum, ...]


def judge(sums: Sequence[Sum], still_seconds: float) -> State:
    """What the sums of the steps, in order, mean when none has moved for `still_seconds`.

    The sums must have been read from the last step to the first, so that a payment on its way can
    never seem to be further than it was taken in.
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
    """Looks at every step of the way again and again, in a thread of its own while `looking`."""

    def __init__(self, counterfoils: Counterfoils, stores: Stores) -> None:
        self._counterfoils = counterfoils
        self._stores = stores
        self._lake = Lake(stores.state.lake)
        self._files: dict[str, tuple[int, int]] = {}
        self._points: deque[Point] = deque(maxlen=HISTORY)
        self._moved = self._equal = time.monotonic()
        self._due = time.monotonic() + LATE_SECONDS
        """When the next look has to be over."""
        self._trouble = ""
        """Why the last look failed, if it did."""

    @contextmanager
    def looking(self) -> Generator[None, None, None]:
        """Look until the block's end; one look may outlast it that a store holds up."""
        stop = threading.Event()
        thread = threading.Thread(target=self._look, args=(stop,), name="way", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(END_SECONDS)

    def document(self) -> dict[str, object]:
        """State, sums and rates as the page shows them."""
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
                # Any store may be away, locked or not made yet; the next look may find it.
                structlog.get_logger().warning("look_failed", error=repr(error))
                self._trouble = f"{type(error).__name__}: {error}"
                stop.wait(1.0)
                continue
            now = time.monotonic()
            if self._trouble and self._points:
                # Nobody looked meanwhile: what stood still then is no sign of loss.
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
        """From the last step to the first; see `judge`."""
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
    """Number and sum, nothing where there is no table yet."""
    count, amount = rows[0] if rows else (0, 0)
    return Sum(count, int(amount or 0))


def history(points: Sequence[Point], wall_offset: float) -> dict[str, list[float]]:
    """Rates between neighbouring points, at seconds since 1970."""
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
"""The document of an application that declares nothing to match; before the first look, too, of one
that does (`matches`)."""
