"""Keeps the certificates of `[gateway.acme]`: orders, validates, renews, and publishes them.

It runs on its own threads, so that the data plane never waits for it: other listeners serve while
the first certificate is ordered, and a certificate stays in use while its renewal fails.

An attempt is stored before it is made, and an order before it is continued. So a process that is
killed at any moment neither loses an order nor exceeds the limits. The next process continues a
known order at once; an attempt with unknown outcome is repeated no sooner than a failed one.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from msgspec.structs import replace

from counterfoil import faults
from counterfoil.errors import CounterfoilError
from counterfoil.gateway.acme import pairs, schedule
from counterfoil.gateway.acme.authority import Authority
from counterfoil.gateway.acme.errors import (
    AcmeError,
    DirectoryRefused,
    DirectoryUnavailable,
    StoreUnavailable,
    Superseded,
)
from counterfoil.gateway.acme.schedule import Allowance, Pace
from counterfoil.gateway.acme.settings import Acme
from counterfoil.gateway.acme.showing import Showing, Standing
from counterfoil.gateway.acme.store import Account, Held, Record, Store, Term, View

LOOK_SECONDS: Final = 60.0
"""The longest interval between checks: the clock may have been set, or the term have ended."""
STORE_SECONDS: Final = 5.0
"""Between retries while the store is unavailable."""
LIMITED: Final = frozenset({"rateLimited"})
log = structlog.get_logger()


class Keeper:
    """Inactive until `use` is called.

    Args:
        show: publishes certificates and challenges; called by several threads, one at a time.
        store: the stored state.
        clock: seconds since 1970.
        draw: random numbers, 0 to 1.
    """

    def __init__(
        self,
        show: Callable[[Showing], None],
        store: Store,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._show = show
        self._store = store
        self._pace = pace or Pace()
        self._clock = clock
        self._draw = draw
        self._allowance = Allowance()
        self._settings: Acme | None = None
        self._rest_until = 0.0
        """Until when a directory that gave no access to an account is not asked."""
        self._unkept: Account | None = None
        """An account that could not be stored. Making a new one at each attempt would exceed the
        limits (Let's Encrypt allows ten in three hours)."""
        self._view = View({}, {})
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def use(self, settings: Acme | None) -> None:
        """Keep certificates for these hosts from now on, and publish those that exist; None for no
        hosts. May be called again with other settings."""
        with self._lock:
            before, self._settings = self._settings, settings
            if settings == before:
                return
            self._rest_until = 0.0
        if settings is not None and not self._threads:
            self._store.listen(self._changed)
            try:
                self._changed(self._store.load())
            except StoreUnavailable as error:
                log.warning("acme_store_unavailable", error=str(error))
            for name, work in (("acme", self._run), ("acme-follow", self._follow)):
                thread = threading.Thread(target=work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        else:
            self._changed(self._view)
        self._wake.set()

    def stop(self) -> None:
        """Order nothing more. Requests under way are not waited for: the next start continues their
        order."""
        self._stop.set()
        self._wake.set()

    def _follow(self) -> None:
        self._store.follow(self._stop)

    def _changed(self, view: View) -> None:
        """Publish the certificates and challenges of the configured hosts."""
        with self._lock:
            self._view = view
            hosts = self._settings.hosts if self._settings else ()
            held = {host: view.held[host].record for host in hosts if host in view.held}
            showing = Showing(
                issued=[(host, each.pair) for host, each in held.items() if each.pair],
                challenges=[
                    (host, view.challenges[host]) for host in hosts if host in view.challenges
                ],
                hosts=[Standing.of(host, held.get(host)) for host in hosts],
            )
            try:
                self._show(showing)
            except CounterfoilError as error:
                log.error("acme_not_shown", error=str(error))  # noqa: TRY400 - it says all

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._settings is None:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                term = self._store.campaign(self._stop)
                if term is None:
                    return
                try:
                    self._lead(term)
                finally:
                    term.resign()
            except Superseded as error:
                log.info("acme_superseded", reason=str(error))
            except StoreUnavailable as error:
                log.warning("acme_store_unavailable", error=str(error))
                self._stop.wait(STORE_SECONDS)
            except Exception:
                # A bug here must not end renewals or the data plane.
                log.exception("acme_broken")
                self._stop.wait(LOOK_SECONDS)

    def _lead(self, term: Term) -> None:
        while not self._stop.is_set() and term.held():
            self._wake.clear()  # first, so that settings changed from now on are seen next time
            settings = self._settings
            if settings is None:
                return
            wait = self._work(settings, term)
            self._wake.wait(wait)

    def _work(self, settings: Acme, term: Term) -> float:
        """Do what is due; returns the seconds until the next check."""
        now = self._clock()
        if now < self._rest_until and schedule.is_believed(self._rest_until, now):
            return min(self._rest_until - now, LOOK_SECONDS)
        held = self._store.load().held
        due = [host for host in settings.hosts if _order_at(settings, held.get(host), now) <= now]
        asked = [
            host for host in settings.hosts if _question_at(settings, held.get(host), now) <= now
        ]
        if due or asked:
            try:
                authority = self._authority(settings)
            except (DirectoryUnavailable, DirectoryRefused) as error:
                # Applies as long as the store fails below.
                self._rest_until = now + self._pace.unavailable(1, self._draw())
                waits = [self._failed(host, held.get(host), error) for host in due]
                self._rest_until = now + min(waits, default=0.0)
                for host in asked:
                    if host not in due:
                        self._not_told(host, held[host], error)
            else:
                self._do(settings, authority, term, due, asked)
            held = self._store.load().held
        moments = [_order_at(settings, held.get(host), now) for host in settings.hosts]
        moments += [_question_at(settings, held.get(host), now) for host in settings.hosts]
        return min(max(0.0, min(moments) - self._clock()), LOOK_SECONDS)

    def _do(
        self, settings: Acme, authority: Authority, term: Term, due: list[str], asked: list[str]
    ) -> None:
        held = self._store.load().held
        for host in due:
            if self._stop.is_set() or not term.held():
                return
            self._obtain(settings, authority, host, held.get(host))
        for host in asked:
            if self._stop.is_set() or not term.held():
                return
            if host not in due:
                self._ask(authority, host, held[host])

    def _authority(self, settings: Acme) -> Authority:
        """The account at the directory, created if there is none.

        Raises:
            DirectoryUnavailable: it does not answer.
            DirectoryRefused: it refuses to create an account.
            StoreUnavailable: the account can't be read or written.
        """
        account = self._store.account()
        if account is None or account.directory != settings.directory:
            account = self._unkept
            if account is None or account.directory != settings.directory:
                account = self._unkept = Account(settings.directory, Authority.register(settings))
                log.info("acme_account_made", directory=settings.directory)
            self._store.keep_account(account)
        self._unkept = None
        return Authority(account.credentials, settings)

    def _obtain(self, settings: Acme, authority: Authority, host: str, held: Held | None) -> None:
        """Get a certificate for a host, continuing its order if there is one.

        Raises:
            Superseded: another gateway has taken over.
            StoreUnavailable: the result can't be written.
        """
        try:
            if held is None or not _goes_on(settings, held.record):
                held = self._begin(host, held)
                if held is None:
                    return
                held = self._order(settings, authority, host, held)
            order, key = held.record.order, held.record.order_key
            digest = authority.challenge(order)
            if digest is not None:
                with self._store.shown(host, pairs.proof(host, digest, self._clock())):
                    faults.point("acme.before-proof")
                    authority.prove(order)
            faults.point("acme.before-certificate")
            given = authority.certificate(order, pairs.request(host, key))
            pair = pairs.issued(host, given, key, self._clock())
        except (DirectoryUnavailable, DirectoryRefused) as error:
            self._failed(host, held, error)
            return
        now, lifetime = self._clock(), pairs.lifetime(pair)
        issued = Record(
            pair=pair,
            directory=settings.directory,
            issued_at=now,
            renew_at=schedule.by_lifetime(now, lifetime, self._draw()),
        )
        self._store.keep(host, issued, held)
        log.info("acme_issued", host=host, until=_text(lifetime[1]))

    def _begin(self, host: str, held: Held | None) -> Held | None:
        """Store that an order is being made, as if it had failed already, in case the process is
        killed before its URL is known; None if no order is allowed now."""
        now = self._clock()
        record = held.record if held else Record()
        wait = self._allowance.wait(now)
        if wait > 0:
            self._store.keep(host, replace(record, try_at=now + wait), held)
            return None
        rest = self._pace.refused(record.failures + 1, self._draw())
        begun = replace(record, order="", order_key="", order_directory="", try_at=now + rest)
        return self._store.keep(host, begun, held)

    def _order(self, settings: Acme, authority: Authority, host: str, held: Held) -> Held:
        """Make an order, and store it."""
        record = held.record
        follows_on = record.pair is not None and record.directory == settings.directory
        replaces = record.pair.certificate if record.pair and follows_on else ""
        faults.point("acme.before-order")
        ordered = replace(
            record,
            order=authority.order(host, replaces),
            order_key=pairs.new_key(),
            order_directory=settings.directory,
            try_at=0.0,
        )
        log.info("acme_ordered", host=host, directory=settings.directory)
        return self._store.keep(host, ordered, held)

    def _failed(
        self, host: str, held: Held | None, error: DirectoryUnavailable | DirectoryRefused
    ) -> float:
        """Store the error and the time of the next attempt; returns the seconds until then. The
        current certificate stays in use."""
        record = held.record if held else Record()
        failures = record.failures + 1
        if isinstance(error, DirectoryRefused):
            limited = error.kind in LIMITED
            wait = self._pace.refused(failures, self._draw(), limited=limited)
            # The refusal ends this order.
            record = replace(record, order="", order_key="", order_directory="")
            if error.kind == "accountDoesNotExist":
                self._store.keep_account(Account("", ""))
        else:
            wait = self._pace.unavailable(failures, self._draw())
        until = pairs.lifetime(record.pair)[1] if record.pair else None
        log.warning(
            "acme_failed",
            host=host,
            error=str(error.args[0]),
            hint=error.hint,
            failures=failures,
            next_try_seconds=round(wait),
            certificate_until=_text(until) if until else None,
        )
        trouble = replace(
            record,
            failures=failures,
            try_at=self._clock() + wait,
            trouble=str(error),
        )
        self._store.keep(host, trouble, held)
        return wait

    def _ask(self, authority: Authority, host: str, held: Held) -> None:
        """Query when to renew a certificate. Without an answer, the stored time stands."""
        record = held.record
        assert record.pair is not None  # else there is nothing to ask about
        try:
            found = authority.renewal(record.pair.certificate)
        except (DirectoryUnavailable, DirectoryRefused) as error:
            self._not_told(host, held, error)
            return
        now = self._clock()
        if found is None:
            asked = replace(record, ask_at=now + schedule.ASK_SECONDS[1])
        else:
            window, again = found
            asked = replace(record, ask_at=now + schedule.ask_again(again))
            if window != record.window:
                lifetime = pairs.lifetime(record.pair)
                at = schedule.by_window(window, record.issued_at, lifetime, self._draw())
                asked = replace(asked, window=window, renew_at=at)
                log.info("acme_renewal_suggested", host=host, at=_text(at))
        self._store.keep(host, asked, held)

    def _not_told(self, host: str, held: Held, error: AcmeError) -> None:
        log.info("acme_renewal_not_told", host=host, error=str(error.args[0]))
        later = self._clock() + schedule.ASK_AGAIN_SECONDS
        self._store.keep(host, replace(held.record, ask_at=later), held)


def _goes_on(settings: Acme, record: Record) -> bool:
    """Whether there is an order to continue."""
    return bool(record.order) and record.order_directory == settings.directory


def _order_at(settings: Acme, held: Held | None, now: float) -> float:
    """When to order a certificate, or to continue its order: 0 for at once."""
    if held is None:
        return 0.0
    record = held.record
    try_at = record.try_at if schedule.is_believed(record.try_at, now) else 0.0
    if record.pair is None or record.directory != settings.directory:
        return try_at
    return max(try_at, record.renew_at)


def _question_at(settings: Acme, held: Held | None, now: float) -> float:
    """When to query the directory about renewal; infinity without a certificate from it."""
    if held is None or held.record.pair is None or held.record.directory != settings.directory:
        return math.inf
    ask_at = held.record.ask_at
    return ask_at if schedule.is_believed(ask_at, now) else 0.0


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
