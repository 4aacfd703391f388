"""Load by wrk, h2load and h3load, and the CPU time that a process and its children took."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final, Protocol

import gateway_quic as quic
from gateway_proxies import BODY, HERE, LOAD_CORE, BenchError, authority, certificate, free_address

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
    kernel_us_per_request: float
    """The kernel's share: of its calls, and of the network's work that is done in them."""
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


@dataclasses.dataclass(frozen=True)
class Cpu:
    """CPU time in seconds of a process, all its threads and its descendants."""

    user: float
    kernel: float

    @classmethod
    def of(cls, process: int) -> "Cpu":
        """What it has had so far."""
        user = kernel = 0
        for each in family(process):
            # Fields after the parenthesised name; utime and stime are the 14th and 15th of all.
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            user, kernel = user + int(fields[11]), kernel + int(fields[12])
        return cls(user / _TICKS, kernel / _TICKS)

    def __sub__(self, before: "Cpu") -> "Cpu":
        return Cpu(self.user - before.user, self.kernel - before.kernel)

    def each(self, requests: int) -> dict[str, float]:
        """Microseconds a request, as `Measured` has them."""
        return {
            "cpu_us_per_request": (self.user + self.kernel) * 1e6 / requests,
            "kernel_us_per_request": self.kernel * 1e6 / requests,
        }


class Load(Protocol):
    """The load of one case."""

    conditions: dict[str, Any]
    """What was sent, and how."""

    def run(self, name: str, address: str, process: int, seconds: float) -> Measured:
        """Send requests for `seconds`, and say what they cost `process`."""
        ...


class Wrk:
    """HTTP/1.1: as much as is answered, or with a pause before each request."""

    def __init__(self, folder: Path, tokens: list[str], pause_ms: int = 0) -> None:
        self.conditions = {"load": "wrk", "connections": CONNECTIONS}
        self._script = folder / "load.lua"
        self._script.write_text(f"pause = {pause_ms or 'nil'}\n{_SCRIPT}")
        self._arguments: list[str] = []
        if tokens:
            path = folder / "tokens.txt"
            path.write_text("".join(f"{token}\n" for token in tokens))
            self._arguments = [str(path)]

    def run(self, name: str, address: str, process: int, seconds: float) -> Measured:
        """Send requests for `seconds`, and say what they cost `process`."""
        output, spent = _sent(self._command(address, seconds), process)
        answer = json.loads(output.strip().splitlines()[-1])
        if answer["errors"] or not answer["requests"]:
            raise BenchError(f"{name}: not every request was answered with success: {answer}")
        return Measured(
            **spent.each(answer["requests"]),
            requests_per_second=answer["requests"] * 1e6 / answer["duration_us"],
            p50_us=answer["p50_us"],
            p99_us=answer["p99_us"],
            requests=answer["requests"],
        )

    def ask(self, address: str, seconds: float) -> dict[str, int]:
        """Send requests for `seconds`: how many, and how many of them failed; durations in us."""
        output, _ = _sent(self._command(address, seconds), os.getpid())
        return json.loads(output.strip().splitlines()[-1])

    def _command(self, address: str, seconds: float) -> list[str]:
        command = ["wrk", "--threads", "1", "--latency"]
        command += ["--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s"]
        return [*command, "--script", str(self._script), f"http://{address}/x", *self._arguments]


class Http2Load:
    """HTTP/2 over TLS: several streams on each connection, as much as is answered."""

    CLIENTS: Final = 16
    STREAMS: Final = 16

    def __init__(self, folder: Path) -> None:
        self.conditions = {
            "load": "h2load",
            "connections": self.CLIENTS,
            "streams on each": self.STREAMS,
        }
        self._log = folder / "h2load.tsv"

    def run(self, name: str, address: str, process: int, seconds: float) -> Measured:
        """Send requests for `seconds`, and say what they cost `process`."""
        self._log.unlink(missing_ok=True)
        command = ["h2load", "--clients", str(self.CLIENTS), "--max-concurrent-streams"]
        command += [str(self.STREAMS), "--duration", f"{seconds:.0f}"]
        command += ["--log-file", str(self._log), f"https://{address}/x"]
        output, spent = _sent(command, process)
        requests = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", output)
        if requests is None or "protocol: h2" not in output:
            raise BenchError(f"{name}: h2load did not speak HTTP/2: {output}")
        done, succeeded, failed = map(int, requests.groups())
        if failed or not done or done != succeeded:
            raise BenchError(f"{name}: not every request was answered with success: {output}")
        # A line for each request: when it was sent, its status, and how long it took.
        durations = sorted(
            int(line.rpartition("\t")[2]) for line in self._log.read_text().splitlines()
        )
        return Measured(
            **spent.each(done),
            requests_per_second=done / seconds,
            p50_us=durations[len(durations) // 2],
            p99_us=durations[len(durations) * 99 // 100],
            requests=done,
        )


class Http3Load:
    """HTTP/3: several streams on each connection, as much as is answered; by `bench/h3load`."""

    CLIENTS: Final = Http2Load.CLIENTS
    STREAMS: Final = Http2Load.STREAMS

    def __init__(self, folder: Path) -> None:
        self.conditions = {
            "load": "bench/h3load (quinn and h3; packaged generators here speak no HTTP/3), "
            "held against aioquic before the run",
            "connections": self.CLIENTS,
            "streams on each": self.STREAMS,
            "peers": "Envoy alone: nginx speaks HTTP/3 from 1.25 on, Debian's HAProxy is built "
            "without it",
        }
        self._authority = authority(folder)
        self._program = _h3load()
        tls = certificate(folder)
        if wrong := quic.faults([str(self._program)], free_address(), self._authority, *tls):
            raise BenchError("\n".join(["h3load does not count as it should:", *wrong]))

    def run(self, name: str, address: str, process: int, seconds: float) -> Measured:
        """Send requests for `seconds`, and say what they cost `process`."""
        command = [str(self._program), "--authority", str(self._authority), "--path", "/x"]
        command += ["--connections", str(self.CLIENTS), "--streams", str(self.STREAMS)]
        command += ["--seconds", f"{seconds:.0f}", "--body-bytes", str(len(BODY)), address]
        output, spent = _sent(command, process)
        answer = json.loads(output)
        if answer["errors"] or not answer["requests"]:
            raise BenchError(f"{name}: not every request was answered with success: {answer}")
        return Measured(
            **spent.each(answer["requests"]),
            requests_per_second=answer["requests"] / answer["seconds"],
            p50_us=answer["p50_us"],
            p99_us=answer["p99_us"],
            requests=answer["requests"],
        )


def _h3load() -> Path:
    """The load generator, built if it isn't."""
    target = HERE.parent / "target" / "h3load"
    manifest = HERE / "h3load" / "Cargo.toml"
    command = ["cargo", "build", "--quiet", "--release", "--locked"]
    command += ["--manifest-path", str(manifest), "--target-dir", str(target)]
    built = subprocess.run(command, check=False)
    if built.returncode:
        raise BenchError("bench/h3load can't be built: cargo has said above why")
    return target / "release" / "counterfoil-h3load"


def _sent(command: list[str], process: int) -> tuple[str, Cpu]:
    """What a load generator said, and the CPU time that `process` spent meanwhile."""
    before = Cpu.of(process)
    done = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, check=False
    )
    spent = Cpu.of(process) - before
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed: {done.stderr or done.stdout}")
    return done.stdout, spent
