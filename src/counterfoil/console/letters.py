"""Console API of dead letters: list, inspect, edit, discard, rehearse and replay.

Ids are strings, since 64 bits don't fit a JavaScript number, and values are text, so that the page
can show and edit them without parsing. A replay of many letters is split into parts, each shorter
than a browser's timeout: the page requests the next part with the last one's answer.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from counterfoil.application import Application
from counterfoil.application.web import problem
from counterfoil.console.requests import ACTOR, LARGEST, Answer, body_of
from counterfoil.events import (
    PER_SECOND,
    AuditEntry,
    DeadLetter,
    DeadLetters,
    Events,
    InvalidReplacement,
    NoHandler,
    NoSuchDeadLetter,
    Pace,
    Pipeline,
    Selection,
    act_on_each,
    handle,
    in_order,
    readable,
    rehearse,
)
from counterfoil.events.topics import AnyTopic
from counterfoil.supervisor.host import now_us

LETTERS_SHOWN: Final = 500
PART_SECONDS: Final = 3.0
"""The time limit of one part of a replay of many."""
Number = Annotated[str, msgspec.Meta(pattern=r"^\d{1,18}$")]
Place = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Via = Literal["retries", "handler"]
T = TypeVar("T")


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replacement, as text."""

    value: str


class Discard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason why a letter won't be handled."""

    reason: str


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to replay a letter: through the retry topic, or with the handler in this process."""

    via: Via = "retries"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a replay of many: the selection, and the range of letters."""

    selection: Selection
    via: Via = "retries"
    after: Number = "0"
    last: Number | None = None


class Letters:
    """The endpoints for dead letters."""

    def __init__(self, application: Application, events: Events) -> None:
        self._pipelines = application.pipelines
        self._topics = {topic.name: topic for topic in application.all_topics()}
        self._events = events

    def readers(self) -> dict[str, Answer]:
        """The GET endpoints."""
        return {
            "/api/dead-letters": self.list,
            "/api/dead-letters/waiting": self.waiting,
            "/api/dead-letters/{number:int}": self.show,
        }

    def actions(self) -> dict[str, Answer]:
        """The POST endpoints."""
        return {
            "/api/dead-letters/replay": self.replay_some,
            "/api/dead-letters/{number:int}/edit": self.edit,
            "/api/dead-letters/{number:int}/try": self.rehearse,
            "/api/dead-letters/{number:int}/replay": self.replay,
            "/api/dead-letters/{number:int}/discard": self.discard,
        }

    async def list(self, request: Request) -> object:
        """A page of letters, newest first."""
        asked = request.query_params
        selection = msgspec.convert(
            {name: asked[name] for name in Selection.__struct_fields__ if asked.get(name)},
            Selection,
            strict=False,
        )
        wanted = msgspec.convert(asked.get("limit") or "100", int, strict=False)
        limit = min(max(wanted, 1), LETTERS_SHOWN)
        before = msgspec.convert(asked.get("before") or None, Place | None, strict=False)
        found = await self._do(lambda letters: letters.list(selection, before=before, limit=limit))
        return [self._document(letter) for letter in found]

    async def waiting(self, _: Request) -> object:
        """The number of letters that wait for a decision, by pipeline."""
        return await self._do(lambda letters: letters.waiting())

    async def show(self, request: Request) -> object:
        """One letter with its audit log."""
        number = _number(request)
        letter, entries = await self._do(
            lambda letters: (letters.show(number), letters.audit(number))
        )
        return {**self._document(letter), "audit": [_entry(entry) for entry in entries]}

    async def edit(self, request: Request) -> object:
        """Replace a letter's value, if the new one is a valid event of its topic."""
        number = _number(request)
        edit = msgspec.json.decode(await body_of(request), type=Edit)

        def act(letters: DeadLetters) -> None:
            name = letters.show(number).stream
            if name not in self._topics:
                raise InvalidReplacement(f"no topic {name!r} is declared any more")
            letters.edit(number, edit.value.encode(), self._topics[name], now_us())

        await self._do(act)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def discard(self, request: Request) -> object:
        """Discard a letter: it won't be handled."""
        number = _number(request)
        reason = msgspec.json.decode(await body_of(request), type=Discard).reason
        if not reason.strip():
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a letter is discarded for a reason")
        await self._do(lambda letters: letters.discard(number, reason, now_us()))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def rehearse(self, request: Request) -> object:
        """Run the handler on a letter, report what it would do, and roll back."""
        number = _number(request)

        def act(letters: DeadLetters) -> dict[str, object]:
            pipeline = self._pipeline(letters.show(number))
            handled = rehearse(letters, number, pipeline, now_us())
            return {
                "said": str(handled),
                "error": handled.error,
                "traceback": handled.traceback,
                "transfers": [
                    {**msgspec.structs.asdict(each), "id": str(each.id)}
                    for each in handled.transfers
                ],
                "emitted": [
                    {**msgspec.structs.asdict(each), "value": _text(each.value)}
                    for each in handled.emitted
                ],
                "state": [
                    {"key": each.key, "value": None if each.value is None else _text(each.value)}
                    for each in handled.state
                ],
                "written": handled.written,
            }

        return await self._do(act)

    async def replay(self, request: Request) -> object:
        """Replay one letter."""
        number = _number(request)
        body = await body_of(request)
        via = msgspec.json.decode(body, type=Replay).via if body else "retries"
        said = await self._do(lambda letters: self._replay(letters, letters.show(number), via))
        return {"said": said}

    async def replay_some(self, request: Request) -> object:
        """Replay a part of many letters; returns the outcome for each."""
        part = msgspec.json.decode(await body_of(request), type=Part)
        return await self._do(lambda letters: self._replay_some(letters, part))

    def _replay(self, letters: DeadLetters, letter: DeadLetter, via: Via) -> str:
        if via == "handler":
            return str(handle(letters, letter.id, self._pipeline(letter), now_us()))
        letters.replay(letter.id, now_us())
        return f"in the retries of {letter.pipeline}"

    def _pipeline(self, letter: DeadLetter) -> Pipeline[Any]:
        found = self._pipelines.get(letter.pipeline)
        if found is None:
            raise NoHandler(
                f"no pipeline {letter.pipeline!r} is declared",
                hint="what is no pipeline, such as a saga, is replayed by its retries",
            )
        return found

    def _replay_some(self, letters: DeadLetters, part: Part) -> dict[str, object]:
        waiting = msgspec.structs.replace(part.selection, state="waiting")
        last = int(part.last) if part.last is not None else letters.count(waiting)[1]
        after = int(part.after)
        outcomes: list[dict[str, object]] = []
        end = time.monotonic() + PART_SECONDS
        ended = True
        for outcome in act_on_each(
            in_order(letters, waiting, after=after, last=last),
            lambda letter: self._replay(letters, letter, part.via),
            Pace(PER_SECOND, time.monotonic, time.sleep),
        ):
            after = outcome.letter
            outcomes.append({**msgspec.structs.asdict(outcome), "letter": str(after)})
            if time.monotonic() > end:
                ended = False
                break
        return {"outcomes": outcomes, "after": str(after), "last": str(last), "ended": ended}

    def _document(self, letter: DeadLetter) -> dict[str, object]:
        replacement, topic = letter.replacement, self._topics.get(letter.stream)
        return {
            **msgspec.structs.asdict(letter),
            "id": str(letter.id),
            "event_id": str(letter.event_id),
            "value": _shown(letter.value, topic),
            "replacement": None if replacement is None else _shown(replacement, topic),
        }

    async def _do(self, ask: Callable[[DeadLetters], T]) -> T:
        def asked() -> T:
            with self._letters() as letters:
                return ask(letters)

        return await asyncio.to_thread(asked)

    @contextmanager
    def _letters(self) -> Generator[DeadLetters, None, None]:
        with closing(self._events.pipelines()) as store:
            yield DeadLetters(store, actor=ACTOR)


def _text(value: msgspec.Raw | str) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def _shown(value: bytes, topic: AnyTopic | None) -> str:
    if topic is None or topic.format == "json":
        return value.decode(errors="replace")
    return _text(readable(value, topic))


def _entry(entry: AuditEntry) -> dict[str, object]:
    value = None if entry.value is None else entry.value.decode(errors="replace")
    return {
        **msgspec.structs.asdict(entry),
        "id": str(entry.id),
        "letter": str(entry.letter),
        "value": value,
    }


def _number(request: Request) -> int:
    """The letter's number in the path.

    Raises:
        NoSuchDeadLetter: the number is out of range.
    """
    number: int = request.path_params["number"]
    if number > LARGEST:
        raise NoSuchDeadLetter(f"there is no dead letter {number}")
    return number
