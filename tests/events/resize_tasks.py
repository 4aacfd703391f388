"""A program that works on tasks until none is left; it may be killed at any moment."""

import sys
import time
from pathlib import Path

import msgspec

from counterfoil.events import Context, EmbeddedEvents, TaskQueue, TaskWorker

PATIENCE_SECONDS = 60.0


class Image(msgspec.Struct, frozen=True):
    name: str


def resize(image: Image) -> int:
    time.sleep(0.002)
    return 1


queue = TaskQueue("images", Image, resize, visibility_seconds=0.3, tries=50)


@queue.then
def post(image: Image, pixels: int, context: Context) -> None:
    # A new id each time: a task that was settled twice would be two transfers.
    number = int(context.state.get("transfers") or b"0") + 1
    context.state.put("transfers", str(number).encode())
    context.ledger.transfer(
        id=number, debit="images", credit="all", amount=pixels, currency="PIX", code="resized"
    )


def main() -> None:
    events = EmbeddedEvents(Path(sys.argv[1]))
    worker = TaskWorker(events.pipelines(), queue, lambda: time.time_ns() // 1_000)
    database = events.pipelines().database
    deadline = time.monotonic() + PATIENCE_SECONDS
    while database.execute("SELECT count(*) FROM tasks").fetchone()[0]:
        worker.step()
        if time.monotonic() > deadline:
            sys.exit("too slow")
    worker.close()


if __name__ == "__main__":
    main()
