"""How far a coordinator has read the answers: before that no step counts as unanswered.

A deadline passes while nobody reads, too: a coordinator that was away for longer than a step waits
finds the answer in the log, perhaps behind thousands of others, and must not take the step back
before it has come to it. So a step counts as unanswered once all has been taken in that was in the
answers' topics after its deadline. Where they end is asked for then, and not before: mostly nothing
is late.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from counterfoil.events.errors import LogUnavailable
from counterfoil.events.log import EventLog, Reader
from counterfoil.events.topics import AnyTopic

AGAIN_US: Final = 10_000_000
"""Until a log that did not answer is asked again: to wait for it holds up the other instances."""
log = structlog.get_logger()


class Hearing:
    """What `reader` has fetched of the `answers` in a log."""

    def __init__(self, event_log: EventLog, reader: Reader, answers: Sequence[AnyTopic]) -> None:
        self._log = event_log
        self._reader = reader
        self._answers = answers
        self.heard_us = 0
        """Up to when, in microseconds, all that was answered is in what was fetched."""
        self._asked_us = 0
        self._again_us = 0
        self._ends: Mapping[str, Mapping[int, int]] | None = None
        """Where the topics ended at `_asked_us`, until all of that is fetched."""

    def listen(self, late_us: int | None, now_us: int) -> int:
        """Look how far the last fetch has come; returns `heard_us`.

        `late_us` is the last deadline that has passed without an answer, if there is one.
        """
        self._compare()
        if self._ends is None and late_us is not None and late_us > self.heard_us:
            self._ask(now_us)
            self._compare()
        return self.heard_us

    def forget(self) -> None:
        """What was fetched was not taken in, and will be fetched again."""
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
