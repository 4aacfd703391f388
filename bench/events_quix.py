"""Quix Streams on the same topics, in its own environment: see `events.py`.

Not imported: quixstreams needs an older confluent-kafka. Prints what `events_runs.py` prints.
"""

import json
import sys
import time

from quixstreams import Application


def main(number: int, limit: int, servers: str, application: str) -> dict[str, float]:
    """Consume, transform and produce JSON with exactly-once processing."""
    app = Application(
        broker_address=servers,
        consumer_group=f"{application}.quix",
        processing_guarantee="exactly-once",
        auto_offset_reset="earliest",
        commit_every=limit,
        commit_interval=60.0,
        auto_create_topics=False,
        loglevel="ERROR",
        producer_extra_config={"compression.type": "lz4", "linger.ms": 5},
    )
    source = app.topic(f"{application}.paid", value_deserializer="json")
    sink = app.topic(f"{application}.priced", value_serializer="json")
    began: list[tuple[float, float]] = []

    def price(event: dict) -> dict:
        if not began:  # the first message: joining the group is not counted
            began.append((time.perf_counter(), time.process_time()))
        return {
            "id": event["id"],
            "account": event["account"],
            "amount": event["amount"],
            "fee": event["amount"] // 100,
            "seen": 0,
            "currency": event["currency"],
            "at": event["at"],
        }

    app.dataframe(source).apply(price).to_topic(sink)
    app.run(count=number, timeout=30.0)
    seconds, cpu = time.perf_counter() - began[0][0], time.process_time() - began[0][1]
    return {"figure": number / seconds, "cpu_us": cpu * 1e6 / number}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
