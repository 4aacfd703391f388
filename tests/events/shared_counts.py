"""A share of a pipeline as a program of its own; it may be killed at any moment.

Told by SIGUSR1 it stops itself as soon as it has fetched events, before it handles them.
"""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from counterfoil.events import (
    Batch,
    Context,
    EmbeddedEvents,
    Events,
    KafkaEvents,
    Message,
    Pipeline,
    PipelineRunner,
    Share,
    Topic,
)

PARTITIONS = 6
KEYS = 20


class Call(msgspec.Struct, frozen=True):
    id: int
    key: str


CALLS = Topic("calls", Call, partitions=PARTITIONS)


def count(event: Call, context: Context) -> None:
    """Counts by key, which one process has, and in all, which is everybody's."""
    for key in (event.key, "all"):
        before = int(context.state.get(key) or b"0")
        context.state.put(key, str(before + 1).encode())
    context.ledger.transfer(
        id=event.id, debit=event.key, credit="all", amount=1, currency="USD", code="c"
    )


def calls(numbers: range) -> list[Message]:
    return [
        Message(number, "calls", key, CALLS.encode(Call(number, key)), {}, 1)
        for number in numbers
        for key in [f"k{number % KEYS}"]
    ]


def runner(events: Events, share: Share, limit: int = 20) -> PipelineRunner:
    log = events.log()
    log.declare([CALLS])
    pipeline = Pipeline("counts", CALLS, count, commit_limit=limit)
    return PipelineRunner(log, events.pipelines(), pipeline, lambda: 1, share)


def main() -> None:
    number, of, *where = sys.argv[1:]
    if len(where) == 1:
        events: Events = EmbeddedEvents(Path(where[0]))
    else:
        kafka, postgres, application = where
        events = KafkaEvents(kafka, postgres, None, application)
    running = runner(events, Share(int(number), int(of)))
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    fetch = running._reader.fetch

    def fetch_and_sleep(limit: int) -> list[Batch]:
        batches = fetch(limit)
        if batches and told:
            told.clear()
            os.kill(os.getpid(), signal.SIGSTOP)
        return batches

    running._reader.fetch = fetch_and_sleep  # type: ignore[method-assign]
    print("ready", flush=True)
    while True:
        if not running.step():
            time.sleep(0.002)


if __name__ == "__main__":
    main()
