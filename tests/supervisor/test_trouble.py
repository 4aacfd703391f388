"""A process that runs and gets no further says so, and says when it does again."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from counterfoil.events import EventsError
from counterfoil.supervisor import processes
from counterfoil.supervisor.host import TROUBLE_CHARACTERS, Host


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What a supervisor reads of its process."""
    reading, writing = os.pipe()
    monkeypatch.setenv("COUNTERFOIL_NOTIFY", str(writing))
    monkeypatch.setattr(processes, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(processes, "TROUBLE_SECONDS", 0.03)
    yield reading
    os.close(reading)
    os.close(writing)


def test_steps_that_go_on_failing_are_told_once_and_their_end_too(told: int) -> None:
    nothing = cast(Any, None)
    host = Host("relay-1", "shop", Path(), nothing, nothing, nothing, nothing)
    why = "no topic 'elsewhere' " + "x" * 10_000
    tries = 0

    def step() -> int:
        nonlocal tries
        tries += 1
        if tries in {1, 10}:  # what passes by itself is no trouble
            return 1
        if tries == 11:
            host.stop.set()
            return 1
        raise EventsError(why)

    host.ready("leads")
    processes._repeat(host, step)  # pyright: ignore[reportPrivateUsage]
    lines = [msgspec.json.decode(line) for line in os.read(told, 65_536).splitlines()]
    assert lines == [
        {"detail": "leads", "trouble": ""},
        {"detail": "leads", "trouble": why[:TROUBLE_CHARACTERS]},
        {"detail": "leads", "trouble": ""},
    ]
