"""A program that makes calls in parallel and posts each once; it may be killed at any moment."""

import sys
import time
from pathlib import Path

import msgspec

from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Parallel,
    ParallelRunner,
    Topic,
    trial_balance,
)

PATIENCE_SECONDS = 60.0


class Call(msgspec.Struct, frozen=True):
    id: int
    key: str


CALLS = Topic("calls", Call, partitions=2)


def work(event: Call) -> int:
    time.sleep(0.001 * (event.id * 7 % 11))
    return event.id


parallel = Parallel("calls", CALLS, work, concurrency=16)


@parallel.then
def post(event: Call, amount: int, context: Context) -> None:
    # Not a transfer with the event's id, which would be posted once whatever happened.
    count = int(context.state.get(event.key) or b"0")
    context.state.put(event.key, str(count + 1).encode())
    number = int(context.state.get("transfers") or b"0") + 1
    context.state.put("transfers", str(number).encode())
    context.ledger.transfer(
        id=number, debit=event.key, credit="all", amount=amount, currency="USD", code="c"
    )


def main() -> None:
    events, total = EmbeddedEvents(Path(sys.argv[1])), int(sys.argv[2])
    runner = ParallelRunner(events.log(), events.pipelines(), parallel, lambda: 1)
    database = events.pipelines().database
    deadline = time.monotonic() + PATIENCE_SECONDS
    while trial_balance(database).get("USD", (0, 0))[0] < total:
        runner.step()
        if time.monotonic() > deadline:
            sys.exit("too slow")
    runner.close()


if __name__ == "__main__":
    main()
