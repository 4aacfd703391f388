"""Tracks how far a coordinator has read the answers, so that no step times out too early.

Deadlines also pass while no coordinator runs. One that was down for longer than a step's timeout
may find the answer in the log behind thousands of others, and must not compensate before it has
read that far. So a step counts as unanswered only once everything has been read that was in the
answers' topics after its deadline. Their ends are looked up only if a deadline has passed.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from counterfoil.events.errors import LogUnavailable
from counterfoil.events.log import EventLog, Reader
from counterfoil.events.topics import AnyTopic

AGAIN_US: Final = 10_000_000
"""Pause before asking again after the log didn't answer: waiting for it delays other instances."""
log = structlog.get_logger()


class Hearing:
    """How much of the `answers` in a log `reader` has fetched."""

    def __init__(self, event_log: EventLog, reader: Reader, answers: Sequence[AnyTopic]) -> None:
        self._log = event_log
        self._reader = reader
        self._answers = answers
        self.heard_us = 0
        """The time, in microseconds, up to which all answers have been fetched."""
        self._asked_us = 0
        self._again_us = 0
        self._ends: Mapping[str, Mapping[int, int]] | None = None
        """The topics' ends at `_asked_us`, until all before them is fetched."""

    def listen(self, late_us: int | None, now_us: int) -> int:
        """Update and return `heard_us` after a fetch.

        `late_us` is the last deadline that has passed without an answer, if there is one.
        """
        self._compare()
        if self._ends is None and late_us is not None and late_us > self.heard_us:
            self._ask(now_us)
            self._compare()
        return self.heard_us

    def forget(self) -> None:
        """Start over: the last fetch was not committed and will be repeated."""
        self.heard_us, self._ends = 0, None

    def _ask(self, now_us: int) -> None:
        if now_us < self._again_us <= now_us + AGAIN_US:
            return
        try:
            self._ends = {topic.name: self._log.ends(topic.name) for topic in self._answers}
        except LogUnavailable as error:
            log.warning("answers_may_be_on_their_way", error=str(error))
            self._again_us = now_us + AGAIN_US
        else:
            self._asked_us = now_us

    def _compare(self) -> None:
        if self._ends is None:
            return
        for topic, ends in self._ends.items():
            reached = self._reader.reached(topic)
            if any(reached.get(partition, 0) < end for partition, end in ends.items()):
                return
        self.heard_us, self._ends = self._asked_us, None
