"""etcd: the members must have a quorum, and space to write."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from counterfoil.engines.checks.finding import Finding, Level, unreachable

SECONDS: Final = 3.0
SAID: Final = 200
OLDEST: Final = (3, 4)
FULL: Final = 0.8
"""The share of the quota above which a member counts as full: compaction takes time."""


def check(address: str, secret: str | None, now: float) -> list[Finding]:
    """Version, alarms, space and members, from the first endpoint that answers.

    The clock is not checked: leases and revisions don't depend on it. Nor is auto-compaction: it is
    a flag that members don't report.
    """
    del now
    errors: list[str] = []
    for endpoint in address.split(","):
        try:
            return _inspect(_Member(endpoint, secret or ""))
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read(SAID).decode(errors='replace').strip()}"
            remedy = "give the user in the address (http://user@host) and ETCD_PASSWORD"
            return unreachable("etcd", address, said, remedy)
        except (OSError, ValueError) as error:
            errors.append(str(error))
    remedy = "start it, or correct [addresses] etcd"
    return unreachable("etcd", address, "; ".join(errors), remedy)


class _Member:
    """A client of one member's JSON gateway, as the user in its address if there is one."""

    def __init__(self, endpoint: str, password: str) -> None:
        scheme, _, place = endpoint.rpartition("://")
        user, _, host = place.rpartition("@")
        self._base = f"{scheme or 'http'}://{host}"
        self._headers: dict[str, str] = {}
        if user:
            credentials = {"name": unquote(user), "password": password}
            self._headers["Authorization"] = self.ask("auth/authenticate", credentials)["token"]

    def ask(self, call: str, question: Mapping[str, object]) -> dict[str, Any]:
        content = json.dumps(question).encode()
        request = urllib.request.Request(f"{self._base}/v3/{call}", content, self._headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)


def _inspect(member: _Member) -> list[Finding]:
    status = member.ask("maintenance/status", {})
    findings: list[Finding] = []

    def say(level: Level, setting: str, found: str, needed: str, remedy: str) -> None:
        findings.append(Finding("etcd", level, setting, found, needed, remedy))

    version = status["version"]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        needed = ".".join(str(part) for part in OLDEST)
        say(Level.BREAKS, "version", version, f"{needed} or later", "upgrade the members")
    if not status.get("leader", "0").strip("0"):
        say(Level.BREAKS, "leader", "none", "a leader", "start a majority of the members")
    errors = [str(each) for each in status.get("errors", [])]
    if errors:
        remedy = "compact, defragment, then `etcdctl alarm disarm`; a larger --quota-backend-bytes"
        say(Level.BREAKS, "alarm", ", ".join(errors), "none", remedy)
    quota = int(status.get("dbSizeQuota", 0))
    if quota and int(status["dbSize"]) > FULL * quota:
        found = f"{int(status['dbSize']) // 2**20} of {quota // 2**20} MiB"
        remedy = "--auto-compaction-retention, defragment, or a larger --quota-backend-bytes"
        say(Level.WEAKENS, "room", found, f"less than {FULL:.0%}", remedy)
    members = len(member.ask("cluster/member/list", {})["members"])
    if members < 3 or members % 2 == 0:
        remedy = "run 3 or 5 members on machines of their own"
        say(Level.WEAKENS, "members", str(members), "3 or 5", remedy)
    return findings
