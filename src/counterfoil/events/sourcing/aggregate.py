"""Aggregates: state folded from events, commands that append new ones.

An aggregate's state is the result of applying its events in order. With a snapshot, loading takes
as long for a history of millions as for one of hundreds. A snapshot is only a cache: it is used if
it was made for the current state type and `schema_version`, and can be compared with a full replay
at any time.
"""

import contextlib
import hashlib
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from counterfoil.events.errors import EventsError, SnapshotMismatch, VersionConflict
from counterfoil.events.sourcing.streams import Session, Snapshot, StoredEvent, Stream
from counterfoil.events.sourcing.vocabulary import Kind, Upcast, Vocabulary

S = TypeVar("S")
E = TypeVar("E")
SNAPSHOT_EVERY: Final = 100
"""Applying so many events takes about as long as reading a snapshot's row."""
APPEND_LIMIT: Final = 1_000
"""Maximum events of one append: more hints at an infinite loop."""
TRIES: Final = 10


class Current(msgspec.Struct, Generic[S], frozen=True):
    """An aggregate as seen by one transaction."""

    id: str
    state: S
    version: int
    """The number of its events; 0 before the first."""
    snapshot_version: int
    """The version of its snapshot; 0 without one."""
    snapshot_us: int


class Aggregate(Generic[S]):
    """A kind of aggregate; its tables (`SCHEMA`) are in the database of its user."""

    def __init__(
        self,
        name: str,
        state: type[S],
        *,
        initial: Callable[[], S] | None = None,
        snapshot_every: int = SNAPSHOT_EVERY,
        snapshot_seconds: float | None = None,
        schema_version: int = 1,
    ) -> None:
        """`state` is a type that msgspec supports; `initial` makes the state before all events.

        An append takes a snapshot if the last one is `snapshot_every` events, or
        `snapshot_seconds`, old. Change `schema_version` whenever events are applied differently;
        changes of the state's fields are detected automatically.

        Raises:
            EventsError: `snapshot_every` is not above 0.
        """
        if snapshot_every < 1:
            raise EventsError(f"snapshot_every must be at least 1, not {snapshot_every}")
        self.name = name
        self._state = state
        self._initial = state if initial is None else initial
        self._snapshot_every = snapshot_every
        self._snapshot_us = None if snapshot_seconds is None else int(snapshot_seconds * 1_000_000)
        self._schema = f"{schema_version}/{_fingerprint(state)}"
        self._vocabulary = Vocabulary(name)
        self._apply: dict[type, Callable[[S, Any], S]] = {}

    def when(
        self, *, version: int = 1, name: str | None = None
    ) -> Callable[[Callable[[S, E], S]], Callable[[S, E], S]]:
        """Declare how an event changes the state; the second parameter's type is the event's.

        The function must be pure: it runs again whenever the aggregate is loaded.

        Raises:
            EventsError: the type is not annotated, or its event is declared already.
        """

        def declare(apply: Callable[[S, E], S]) -> Callable[[S, E], S]:
            hints = list(typing.get_type_hints(apply).items())
            event = hints[1][1] if len(hints) > 1 else None
            if not isinstance(event, type):
                raise EventsError(
                    f"{apply.__name__}: the event's parameter has no type",
                    hint="annotate it: def deposited(account: Account, event: Deposited)",
                )
            self._vocabulary.add(Kind(name or event.__name__, version, event))
            self._apply[event] = apply
            return apply

        return declare

    def upcast(self, name: str, version: int) -> Callable[[Upcast], Upcast]:
        """Declare how a stored event's JSON object is converted from `version` to the next."""

        def declare(upcast: Upcast) -> Upcast:
            self._vocabulary.add_upcast(name, version, upcast)
            return upcast

        return declare

    def apply(self, state: S, event: object) -> S:
        """The state after an event.

        Raises:
            EventsError: the event's type is not declared.
        """
        change = self._apply.get(type(event))
        if change is None:
            raise EventsError(f"{self.name} has no event {type(event).__name__}")
        return change(state, event)

    def load(self, session: Session, identity: str, *, as_of: int | None = None) -> Current[S]:
        """The aggregate's current state, or the one after `as_of` events.

        Raises:
            EventsError: an event can't be read any more.
        """
        stream = Stream(session, self.name, identity)
        version = stream.version()
        end = version if as_of is None else min(as_of, version)
        snapshot = stream.snapshot()
        if snapshot is None or snapshot.state_schema != self._schema or snapshot.version > end:
            return self._replay(stream, identity, end)
        state = msgspec.json.decode(snapshot.content, type=self._state)
        state = self._fold(state, stream, snapshot.version, end)
        return Current(identity, state, end, snapshot.version, snapshot.at_us)

    def append(self, session: Session, current: Current[S], events: Sequence[object]) -> Current[S]:
        """Append events to the aggregate that was loaded as `current`.

        Raises:
            VersionConflict: it has changed since; nothing was stored.
            EventsError: an event's type is not declared, or there are too many.
        """
        if len(events) > APPEND_LIMIT:
            raise EventsError(f"{len(events)} events at once; the limit is {APPEND_LIMIT}")
        if not events:
            return current
        stored: list[StoredEvent] = []
        state = current.state
        for number, event in enumerate(events, start=current.version + 1):
            kind, content = self._vocabulary.encode(event)
            state = self.apply(state, event)
            stored.append(StoredEvent(number, kind.name, kind.version, content, session.now_us))
        stream = Stream(session, self.name, current.id)
        version = stored[-1].version
        if not stream.advance(current.version, version):
            raise VersionConflict(
                f"{self.name} {current.id} is not at version {current.version} any more",
                hint="load it again and decide anew, or use decide()",
            )
        for event in stored:
            stream.add(event)
        following = msgspec.structs.replace(current, state=state, version=version)
        return self._snapshot(stream, following, session.now_us)

    def decide(
        self,
        session: Session,
        identity: str,
        decision: Callable[[S], Sequence[object]],
        *,
        tries: int = TRIES,
    ) -> Current[S]:
        """Load the aggregate, call `decision`, and append its events; retry on conflicts.

        The decision gets the state and returns events; if it raises, nothing is stored.

        Raises:
            VersionConflict: there was a conflict `tries` times.
        """
        for _ in range(tries - 1):
            with contextlib.suppress(VersionConflict):
                return self._decide_once(session, identity, decision)
        return self._decide_once(session, identity, decision)

    def verify(self, session: Session, identity: str) -> Current[S]:
        """Replay the aggregate in full, and compare it with its snapshot plus later events.

        Raises:
            SnapshotMismatch: they differ: `apply` was changed without `schema_version`.
        """
        current = self.load(session, identity)
        replayed = self._replay(Stream(session, self.name, identity), identity, current.version)
        if replayed.state != current.state:
            raise SnapshotMismatch(
                f"{self.name} {identity}: the snapshot at {current.snapshot_version} leads to "
                f"{current.state!r}, all {current.version} events to {replayed.state!r}",
                hint="give the aggregate another schema_version: old snapshots are left aside",
            )
        return replayed

    def _decide_once(
        self, session: Session, identity: str, decision: Callable[[S], Sequence[object]]
    ) -> Current[S]:
        current = self.load(session, identity)
        return self.append(session, current, decision(current.state))

    def _replay(self, stream: Stream, identity: str, end: int) -> Current[S]:
        return Current(identity, self._fold(self._initial(), stream, 0, end), end, 0, 0)

    def _fold(self, state: S, stream: Stream, after: int, end: int) -> S:
        for stored in stream.read(after, end):
            state = self.apply(state, self._decoded(stored, stream))
        return state

    def _decoded(self, stored: StoredEvent, stream: Stream) -> object:
        try:
            return self._vocabulary.decode(stored.kind, stored.kind_version, stored.content)
        except EventsError:
            raise
        except Exception as error:
            raise EventsError(
                f"{self.name} {stream.identity}: its event {stored.version}, {stored.kind} of "
                f"version {stored.kind_version}, can't be read: {type(error).__name__}: {error}",
                hint="correct its upcasts or its type: what is stored stays",
            ) from error

    def _snapshot(self, stream: Stream, current: Current[S], now_us: int) -> Current[S]:
        old = now_us - current.snapshot_us
        if current.version - current.snapshot_version < self._snapshot_every and not (
            self._snapshot_us is not None and old >= self._snapshot_us
        ):
            return current
        content = msgspec.json.encode(current.state)
        stream.keep(Snapshot(current.version, self._schema, content, now_us))
        return msgspec.structs.replace(
            current, snapshot_version=current.version, snapshot_us=now_us
        )


def _fingerprint(state: type) -> str:
    """A digest of the type's JSON Schema, which changes with its fields."""
    schema = msgspec.json.encode(msgspec.json.schema(state), order="deterministic")
    return hashlib.blake2b(schema, digest_size=8).hexdigest()
