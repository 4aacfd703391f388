"""The guard ends everything of its run, however deaf, and touches nothing else."""

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from counterfoil.supervisor import guard

RUN = secrets.token_hex(16)
IDLE = "import time; print('here', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {IDLE}"
LEFT_ALONE = f"""
import os
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
{IDLE}
"""


class Started:
    """Processes of this test, which end with it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, code: str, run: str = RUN) -> tuple[int, subprocess.Popen[str]]:
        """A descriptor of a process that runs `code` and has said so, and its starter."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, guard.VARIABLE: run},
        )
        self._stack.enter_context(process)
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        descriptor = os.pidfd_open(int(said) if said.isdecimal() else process.pid)
        self._stack.callback(os.close, descriptor)
        self._stack.callback(_kill, descriptor)
        return descriptor, process


def _kill(descriptor: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


@pytest.fixture
def started() -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(stack)


def has_ended(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


@pytest.mark.parametrize("code", [IDLE, DEAF, LEFT_ALONE])
def test_a_process_of_the_run_has_ended_when_the_guard_is_done(started: Started, code: str) -> None:
    descriptor, _ = started(code)
    guard.end(RUN, grace_seconds=0.3)
    assert has_ended(descriptor)


def test_who_does_not_end_though_killed_is_named_and_no_longer_waited_for(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process in uninterruptible sleep: a kernel that holds SIGKILL back is played here."""
    stuck, process = started(DEAF)
    other, _ = started(DEAF)
    send, kills = signal.pidfd_send_signal, list[int]()

    def send_all_but_one(descriptor: int, number: int) -> None:
        (pid,) = (
            int(line.split()[1])
            for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
            if line.startswith("Pid:")
        )
        if number == signal.SIGKILL and pid == process.pid:
            kills.append(pid)
        else:
            send(descriptor, number)

    with monkeypatch.context() as played:
        played.setattr(signal, "pidfd_send_signal", send_all_but_one)
        assert guard.end(RUN, grace_seconds=0.2, killed_seconds=0.5) == [process.pid]
    assert kills
    assert has_ended(other)
    assert not has_ended(stuck)
    said = guard.words([process.pid, 1 << 30])
    assert f"{process.pid} (python" in said
    assert "S (sleeping)" in said
    assert f"{1 << 30} (just ended)" in said
    assert guard.end(RUN, grace_seconds=0.2) == []


def test_a_paused_process_is_woken_to_hear_it(started: Started) -> None:
    code = f"import signal, os; signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); {IDLE}"
    descriptor, process = started(code)
    signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
    guard.end(RUN, grace_seconds=60)
    assert process.wait(20) == 7, "it ended by itself, in time"


def test_processes_of_other_runs_and_of_none_are_left_alone(started: Started) -> None:
    other, _ = started(IDLE, secrets.token_hex(16))
    longer, _ = started(IDLE, RUN + "0")
    none, _ = started(IDLE, "")
    own, _ = started(IDLE)
    guard.end(RUN, grace_seconds=0.3)
    assert has_ended(own)
    assert not any(map(has_ended, (other, longer, none)))


def test_it_waits_for_the_end_of_its_lifeline_whoever_asks_it_to_end(started: Started) -> None:
    reading, writing = os.pipe()
    descriptor, _ = started(IDLE)
    watching = subprocess.Popen([sys.executable, "-I", guard.__file__, RUN], stdin=reading)
    os.close(reading)
    try:
        until(lambda: ignores(watching.pid, signal.SIGTERM))
        watching.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            watching.wait(0.5)
        assert not has_ended(descriptor)
    finally:
        os.close(writing)
    assert watching.wait(30) == 0
    assert has_ended(descriptor)


def ignores(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
