"""Tools for the tests of an application."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from counterfoil.proof.prove import FAULT_NUMBER, Verdict
from counterfoil.proof.prove import prove as _prove
from counterfoil.testing.rehearsal import Crash, Rehearsal, RehearsalError

__all__ = ["Crash", "Rehearsal", "RehearsalError", "Verdict", "prove"]


def prove(
    folder: Path,
    state: Path,
    *,
    requests: int,
    seed: int = 1,
    faults: Sequence[str] = ("kill", "pause"),
    fault_number: int = FAULT_NUMBER,
    sabotage: str | None = None,
) -> Verdict:
    """Run the application in `folder` under faults, as `counterfoil prove` does.

    `state` must not hold an earlier run; a test gives a folder below pytest's `tmp_path`.

    Raises:
        ProofError: the application declares nothing that could be proved.
        CounterfoilError: it did not start.
    """
    return asyncio.run(
        _prove(
            folder,
            state,
            purchases=requests,
            seed=seed,
            actions=faults,
            fault_number=fault_number,
            sabotage=sabotage,
        )
    )
