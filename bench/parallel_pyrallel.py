"""Pyrallel Consumer on the same topic, in its own environment: see `parallel.py`.

Not imported: it needs Python 3.12. It works at least once and has no effects of its own, so it is
asked for less: the work alone. Prints the rate, and whether each key was in order.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from typing import Any

from pyrallel_consumer.config import ExecutionConfig, KafkaConfig, ParallelConsumerConfig
from pyrallel_consumer.consumer import PyrallelConsumer
from pyrallel_consumer.dto import WorkItem

STOP_SECONDS = 120.0


async def main(servers: str, topic: str, number: int, work_seconds: float) -> dict[str, Any]:
    """Work on `number` events; counted from the first that is begun to the last that is done."""
    order: defaultdict[str, list[int]] = defaultdict(list)
    began: list[float] = []
    done = 0
    all_done = asyncio.Event()

    async def work(item: WorkItem) -> None:
        nonlocal done
        if not began:  # joining the group is not counted
            began.append(time.perf_counter())
        await asyncio.sleep(work_seconds)
        event = json.loads(item.payload)
        order[event["key"]].append(event["id"])
        done += 1
        if done >= number:
            all_done.set()

    consumer = PyrallelConsumer(
        KafkaConfig(
            BOOTSTRAP_SERVERS=servers,
            CONSUMER_GROUP=f"{topic}.pyrallel",
            dlq_enabled=False,
            parallel_consumer=ParallelConsumerConfig(execution=ExecutionConfig()),
        ),
        worker=work,
        topic=topic,
    )
    await consumer.start()
    await asyncio.wait_for(all_done.wait(), STOP_SECONDS)
    seconds = time.perf_counter() - began[0]
    await consumer.stop()
    ordered = all(each == sorted(each) for each in order.values())
    return {"rate": number / seconds, "done": done, "in_order": ordered}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))
