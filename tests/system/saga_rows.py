"""Rows of sagas, as a coordinator would leave them."""

from typing import Any

import msgspec

from counterfoil.events.sagas.instances import Instance, Instances

RUNNING = Instance(
    saga="ordering",
    id=0,
    style="orchestration",
    status="running",
    step="charge",
    tries=0,
    waiting=False,
    wake_us=None,
    deadline_us=None,
    lines=0,
    error="",
    started_us=0,
    ended_us=None,
    topic="orders",
    partition=0,
    offset=0,
    key="ada",
    value=b"{}",
    headers={},
    timestamp_us=0,
)


def begin(instances: Instances, number: int, started_us: int, **change: Any) -> Instance:
    """A saga whose first step is done, and whose second has failed twice."""
    instance = msgspec.structs.replace(RUNNING, id=number, started_us=started_us, **change)
    instances.add(instance)
    instances.note(instance, "reserve", "done", at_us=started_us + 1)
    for attempt in (1, 2):
        error = "TimeoutError: no carrier"
        at_us = started_us + 1 + attempt
        instances.note(instance, "charge", "failed", at_us=at_us, attempt=attempt, error=error)
    instances.save(instance)
    return instance
