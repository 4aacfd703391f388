"""Load by wrk, and the CPU time that a process and its children took meanwhile."""

import contextlib
import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Final

from gateway_proxies import LOAD_CORE, BenchError

CONNECTIONS: Final = 64
_TICKS: Final = os.sysconf("SC_CLK_TCK")

# With a file of tokens the requests are made before the load starts, and sent in turn. With a pause
# each connection rests before a request, for anything between a half of it and one and a half.
_SCRIPT: Final = """
local requests, turn = {}, 0
function init(arguments)
  if not arguments[1] then return end
  for token in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, {Authorization = "Bearer " .. token})
  end
  request = function() turn = turn % #requests + 1; return requests[turn] end
end
if pause then
  function delay() return math.random(math.floor(pause / 2), math.ceil(pause * 3 / 2)) end
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one proxy did in one round."""

    cpu_us_per_request: float
    requests_per_second: float
    p50_us: float
    p99_us: float
    requests: int


def family(process: int) -> list[int]:
    """The process and all its descendants."""
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread, or the child, has ended
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def cpu_seconds(process: int) -> float:
    """User and system time of the process, all its threads and its descendants."""
    total = 0
    for each in family(process):
        # Fields after the parenthesised name; utime and stime are the 14th and 15th of all.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


class Load:
    """The load of one case: as much as is answered, or with a pause before each request."""

    def __init__(self, folder: Path, tokens: list[str], pause_ms: int = 0) -> None:
        self._script = folder / "load.lua"
        self._script.write_text(f"pause = {pause_ms or 'nil'}\n{_SCRIPT}")
        self._arguments: list[str] = []
        if tokens:
            path = folder / "tokens.txt"
            path.write_text("".join(f"{token}\n" for token in tokens))
            self._arguments = [str(path)]

    def run(self, name: str, address: str, process: int, seconds: float) -> Measured:
        """Send requests for `seconds`, and say what they cost `process`."""
        command = ["taskset", "-c", str(LOAD_CORE), "wrk", "--threads", "1", "--latency"]
        command += ["--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s"]
        command += ["--script", str(self._script), f"http://{address}/x", *self._arguments]
        before = cpu_seconds(process)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = cpu_seconds(process) - before
        if done.returncode != 0:
            raise BenchError(f"wrk failed: {done.stderr or done.stdout}")
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if answer["errors"] or not answer["requests"]:
            raise BenchError(f"{name}: not every request was answered with success: {answer}")
        return Measured(
            cpu_us_per_request=spent * 1e6 / answer["requests"],
            requests_per_second=answer["requests"] * 1e6 / answer["duration_us"],
            p50_us=answer["p50_us"],
            p99_us=answer["p99_us"],
            requests=answer["requests"],
        )
