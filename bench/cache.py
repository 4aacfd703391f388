"""The public HTTP cache suite against the gateway and nginx: `python bench/cache.py`.

The suite (http-cache-tests, by an editor of RFC 9111) sends requests through a cache to an origin
of its own and looks at both ends. It calls a test `required` where the RFC leaves no choice,
`optimal` where a good cache could do better, and `check` where it only wants to know. What fails
here is named with its reason; a failure without one is an error.
"""

import contextlib
import dataclasses
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import cyclopts
import gateway_proxies as proxies
from rich.console import Console
from rich.table import Table

from counterfoil.gateway.config import Cache, GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

SUITE: Final = proxies.HERE / "cache-suite"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "M-SEARCH")
KINDS: Final = ("required", "optimal", "check")
SHARE: Final = 0.95
"""Of the required tests, to be passed by ours."""
SETTINGS: Final = {
    "counterfoil": "cache at its defaults but for cookies = true (the suite holds RFC 9111 to "
    "storing answers that set cookies; off is the careful default); attempts = 1, since the suite "
    "takes a second attempt for a fault; breaker_failures = 1000, since its origin fails at will",
    "nginx": "what the suite itself runs it with: proxy_cache and proxy_cache_revalidate on",
}
NO_ANSWER: Final = (
    "can't be passed: the origin hangs up, and the test looks for the number of the origin's "
    "answer in what the client then gets; none of the caches whose results come with it passes"
)
PARTS: Final = "parts are not stored: ranges are answered out of whole answers"
CREDENTIALS: Final = (
    "the suite wants to see Authorization at its origin; credentials end at this gateway, which "
    "tells services who was found to ask (the rule itself is tested in tests/gateway)"
)
REASONS: Final = {
    "age-parse-prefix": "an Age that isn't one number makes an answer stale: the suite wants that "
    "for `0, 0` and the opposite for `0,7200`",
    "headers-store-Transfer-Encoding": "an answer with a transfer coding other than chunked is "
    "refused: two readers might end it at different places",
    "stale-close-must-revalidate": NO_ANSWER,
    "stale-close-proxy-revalidate": NO_ANSWER,
    "stale-close-no-cache": NO_ANSWER,
    "stale-close-s-maxage=2": NO_ANSWER,
    "other-authorization": CREDENTIALS,
    "other-authorization-public": CREDENTIALS,
    "other-authorization-must-revalidate": CREDENTIALS,
    "other-authorization-smaxage": CREDENTIALS,
    "method-POST": "answers to POST are not stored: they bring something about",
    "vary-normalise-lang-select": "languages are not negotiated here: what the service chose is "
    "the answer for what was asked",
    "vary-normalise-space": "a field that isn't known to be a list is compared as it was sent",
    "conditional-lm-fresh-no-lm": "without Last-Modified the Date counts (RFC 9111, section "
    "4.3.2), and it is later than what the client has",
    "partial-store-partial-reuse-partial": PARTS,
    "partial-store-partial-reuse-partial-byterange": PARTS,
    "partial-store-partial-reuse-partial-absent": PARTS,
    "partial-store-partial-reuse-partial-suffix": PARTS,
    "partial-store-partial-complete": PARTS,
}
console = Console()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One test, and what the suite said of it: nothing if it passed."""

    id: str
    kind: str
    name: str
    said: str


@contextlib.contextmanager
def origin() -> Iterator[str]:
    """The suite's origin server; its address."""
    process = subprocess.Popen(["node", "origin.mjs"], cwd=SUITE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first.startswith("listening on "):
            raise proxies.BenchError("the suite's origin did not start; run it with node by hand")
        # It says something of every request; what nobody reads would stop it.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield first.split()[-1]
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def counterfoil(address: str) -> Iterator[str]:
    """The gateway in front of `address`."""
    route = Route(
        path="/*", methods=METHODS, service="origin", identity=False, cache=Cache(cookies=True)
    )
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=(route,),
            services={"origin": Upstream(attempts=1, breaker_failures=1000)},
        ),
        access_log=None,
        admin_credential="bench",
    )
    plane.set_endpoints("origin", [("origin-1", address)])
    yield plane.listen
    plane.drain(5.0)


@contextlib.contextmanager
def nginx(address: str, folder: Path) -> Iterator[str]:
    """Nginx in front of `address`."""
    listen = proxies.free_address()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"  {kind}_temp_path {folder / kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(f"""{user}
daemon off;
worker_processes 1;
pid {folder / "nginx.pid"};
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{paths}
  access_log off;
  proxy_cache_path {folder / "cache"} levels=1:2 keys_zone=answers:8m max_size=1000m inactive=600m;
  server {{
    listen {listen};
    location / {{
      proxy_pass http://{address};
      proxy_cache answers;
      proxy_cache_revalidate on;
    }}
  }}
}}
""")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(listen, process)
        yield listen
    finally:
        process.terminate()
        process.wait(10)


def wait_for(listen: str, process: subprocess.Popen[bytes]) -> None:
    """Until somebody accepts connections there."""
    host, _, port = listen.partition(":")
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.05)
    raise proxies.BenchError(f"nginx does not listen on {listen}")


def run(listen: str) -> list[Outcome]:
    """The whole suite against the cache that listens there."""
    done = subprocess.run(
        ["node", "--no-warnings", "run.mjs", f"http://{listen}"],
        cwd=SUITE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise proxies.BenchError(f"the suite did not end as it should:\n{done.stderr[-2000:]}")
    tests = json.loads(done.stdout)
    passed = {test["id"] for test in tests if test["result"] is True}
    found: list[Outcome] = []
    for test in tests:
        said = "" if test["id"] in passed else ": ".join(test["result"])
        found.append(Outcome(test["id"], test["kind"], test["name"], said))
    return found


def passed(outcomes: list[Outcome], kind: str) -> int:
    """How many tests of a kind passed."""
    return sum(each.kind == kind and not each.said for each in outcomes)


def document(results: dict[str, list[Outcome]], conditions: dict[str, Any]) -> dict[str, Any]:
    """The result document: how many passed of each kind, and what did not."""
    ours = results["counterfoil"]
    totals = Counter(each.kind for each in ours)
    cases: list[dict[str, Any]] = []
    for kind in KINDS:
        peers = {n: passed(found, kind) for n, found in results.items() if n != "counterfoil"}
        case = {
            "name": f"cache suite: {kind} tests passed of {totals[kind]}",
            "unit": "tests",
            "ours": passed(ours, kind),
            "peers": peers,
            "ratio": {n: round(passed(ours, kind) / each, 3) for n, each in peers.items() if each},
            "conditions": conditions,
        }
        if kind == "required":
            case["target"] = {"share_at_least": SHARE, "more_than": "nginx"}
        cases.append(case)
    failing = {
        name: [
            {
                "id": each.id,
                "kind": each.kind,
                "name": each.name,
                "said": each.said,
                **({"reason": REASONS.get(each.id, "")} if name == "counterfoil" else {}),
            }
            for each in found
            if each.said and each.kind != "check"
        ]
        for name, found in results.items()
    }
    return {"cases": cases, "failing": failing}


def shortfall(results: dict[str, list[Outcome]]) -> list[str]:
    """What keeps the claim from being true, one line each."""
    ours = results["counterfoil"]
    mine = passed(ours, "required")
    total = sum(each.kind == "required" for each in ours)
    lines = [
        f"{each.id} fails without a reason: {each.said}"
        for each in ours
        if each.said and each.kind != "check" and each.id not in REASONS
    ]
    if mine < SHARE * total:
        lines.append(f"{mine} of {total} required tests pass, less than {SHARE:.0%}")
    for name, found in results.items():
        if name != "counterfoil" and mine <= passed(found, "required"):
            lines.append(f"{name} passes as many required tests")
    return lines


def main(
    *,
    json_out: Path = proxies.HERE / "results" / "cache.json",
    peer: Literal["nginx", "none"] = "nginx",
) -> int:
    """Run the public HTTP cache suite against the gateway, and nginx beside it.

    Parameters
    ----------
    json_out
        Where the result document goes.
    peer
        `none` leaves nginx out.
    """
    programs = [("node", "install Node.js 20 or later")]
    if peer == "nginx":
        programs.append(("nginx", "apt-get install nginx"))
    lacking = [f"{name} is missing: {how}" for name, how in programs if not shutil.which(name)]
    if not (SUITE / "node_modules").exists():
        lacking.append("the suite is missing: make cache-suite")
    if lacking:
        console.print(*lacking, sep="\n", markup=False)
        return 2
    results: dict[str, list[Outcome]] = {}
    try:
        with origin() as address, counterfoil(address) as listen:
            results["counterfoil"] = run(listen)
        if peer == "nginx":
            with (
                tempfile.TemporaryDirectory(prefix="bench-") as folder,
                origin() as address,
                nginx(address, Path(folder)) as listen,
            ):
                results["nginx"] = run(listen)
    except proxies.BenchError as error:
        console.print(str(error), markup=False)
        return 1
    packages = json.loads((SUITE / "package-lock.json").read_text())["packages"]
    conditions: dict[str, Any] = {
        "suite": f"http-cache-tests {packages['node_modules/http-cache-tests']['version']}",
        "versions": {"counterfoil": version("counterfoil")},
        "settings": SETTINGS,
    }
    if peer == "nginx":
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
        conditions["versions"]["nginx"] = said.strip().rpartition("/")[2]
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps(document(results, conditions), indent=2) + "\n")
    table = Table("tests", *results, "of")
    for kind in KINDS:
        counts = [str(passed(found, kind)) for found in results.values()]
        total = sum(each.kind == kind for each in results["counterfoil"])
        table.add_row(kind, *counts, str(total))
    console.print(table)
    lines = shortfall(results)
    console.print(*lines, sep="\n", markup=False)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
