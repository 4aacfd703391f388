"""Payments through a pipeline on Kafka whose processor and broker are killed: each is there once.

The short form of `python bench/exactly_once.py`, which reads the outcome by a plain consumer.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "exactly_once.py"


@pytest.mark.timeout(300)
def test_every_payment_is_in_the_output_once() -> None:
    arguments = ["--payments", "3000", "--kill-every", "1", "--broker-kills", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    verdict = json.loads(done.stdout)
    assert verdict["in_output"] == 3_000
    assert verdict["missing"] == verdict["more_than_once"] == 0
    assert verdict["sum_is_right"]
    assert verdict["processor_kills"] >= 1
    assert verdict["broker_kills"] == 1
