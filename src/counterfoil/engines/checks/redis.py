"""Redis or Valkey: limits must not be evicted, and its clock must be right."""

import socket
from typing import Final
from urllib.parse import unquote, urlsplit

from counterfoil.engines.checks.finding import Finding, Level, clock, unreachable

SECONDS: Final = 3.0
OLDEST: Final = 5


class _Refused(Exception):
    pass


class _Connection:
    """The part of RESP that a check needs: flat answers, without null values."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), SECONDS)
        self._socket.settimeout(SECONDS)
        self._answers = self._socket.makefile("rb")

    def ask(self, *words: str) -> list[str]:
        self._socket.sendall(
            b"*%d\r\n" % len(words)
            + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        )
        return self._answer()

    def _answer(self) -> list[str]:
        line = self._answers.readline().decode(errors="replace").rstrip("\r\n")
        kind, rest = line[:1], line[1:]
        match kind:
            case "-":
                raise _Refused(rest)
            case "*":
                return [text for _ in range(int(rest)) for text in self._answer()]
            case "$":
                return [self._answers.read(int(rest) + 2)[:-2].decode(errors="replace")]
            case "+" | ":":
                return [rest]
            case _:
                raise OSError("it does not speak Redis's protocol")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def check(address: str, secret: str | None, now: float) -> list[Finding]:
    """Version, role, eviction, clock."""
    found = urlsplit(address)
    where = f"{found.hostname}:{found.port or 6379}"
    if found.scheme == "rediss":
        return []  # TLS is not checked here; the gateway reports errors in its state
    try:
        connection = _Connection(found.hostname or "", found.port or 6379)
    except OSError as error:
        return unreachable("redis", where, error, "start it, or correct [addresses] redis")
    try:
        if secret:
            connection.ask("AUTH", *filter(None, (unquote(found.username or ""), secret)))
        return _inspect(connection, now)
    except _Refused as error:
        remedy = "set REDIS_PASSWORD to its requirepass, and allow INFO, TIME and EVALSHA"
        return unreachable("redis", where, error, remedy)
    except OSError as error:
        return unreachable("redis", where, error, "correct [addresses] redis")
    finally:
        connection.close()


def _inspect(connection: _Connection, now: float) -> list[Finding]:
    info = dict(
        line.split(":", 1)
        for section in ("server", "replication", "memory")
        for line in connection.ask("INFO", section)[0].splitlines()
        if ":" in line
    )
    findings: list[Finding] = []

    def say(level: Level, setting: str, found: str, needed: str, remedy: str) -> None:
        findings.append(Finding("redis", level, setting, found, needed, remedy))

    version = info.get("redis_version", "0")
    if int(version.split(".")[0]) < OLDEST:
        say(Level.BREAKS, "version", version, f"{OLDEST} or later", "upgrade the server")
    if info.get("role") != "master":
        say(Level.BREAKS, "role", info.get("role", "?"), "master", "use the primary's address")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        remedy = "CONFIG SET maxmemory-policy noeviction: an evicted key forgets its debt"
        level = Level.BREAKS if int(info.get("maxmemory", 0)) else Level.WEAKENS
        say(level, "maxmemory-policy", policy, "noeviction", remedy)
    seconds, microseconds = connection.ask("TIME")
    return findings + clock("redis", int(seconds) + int(microseconds) / 1e6, now)
