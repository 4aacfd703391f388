"""`counterfoil gateway`: check its configuration, put it into force, make keys."""

import http.client
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import cyclopts
from cyclopts import Parameter
from rich.console import Console

if TYPE_CHECKING:
    from counterfoil.application import StateFolder

app = cyclopts.App(name="gateway", help="Check and reload the gateway's configuration; make keys.")
out = Console()

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
RELOAD_SECONDS: Final = 15.0
"""An issuer that is new is asked for its keys first, which may take five."""


@app.command
def check(path: Path = Path()) -> None:
    """Check the configuration in PATH as a start or a reload would. Exit 2 if it can't be used."""
    from counterfoil.application import load  # noqa: PLC0415
    from counterfoil.gateway.data_plane import check as check_gateway  # noqa: PLC0415

    gateway = load(path).gateway
    check_gateway(gateway, folder=path)
    counted = f"{len(gateway.routes)} routes, {len(gateway.limits)} limits"
    out.print(f"the gateway's configuration can be used: {counted}", highlight=False)


@app.command
def reload(path: Path = Path(), *, state: State = None) -> None:
    """Put the configuration in PATH into force in the running gateway, without losing a request.

    It is checked whole first; what is configured as before keeps its state. Addresses, tls, threads
    and everything outside [gateway] take a new start.
    """
    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.running import addresses  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415

    check(path)
    files = StateFolder(state if state is not None else path / ".counterfoil")
    admin = addresses(files).admin
    before = _configuration(admin, files)
    document: dict[str, Any] = json.loads(files.run.read_text())
    pids = [each["pid"] for each in document["processes"] if each["kind"] == "gateway"]
    for pid in filter(None, pids):
        os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while (after := _configuration(admin, files)) == before:
        if time.monotonic() > deadline:
            log = files.process_log("gateway")
            raise CounterfoilError("the gateway did not reload", hint=f"see {log}")
        time.sleep(0.05)
    if after["refusals"] != before["refusals"]:
        raise CounterfoilError(f"the gateway refused it: {after['refused']}")
    out.print(f"configuration {after['version']} is in force", highlight=False)


@app.command
def key(name: str, *, tenant: str, tier: str = "bronze") -> None:
    """Make an API key: it goes to standard output, its entry for counterfoil.toml beside it.

    Example: counterfoil gateway key billing --tenant aurora > billing.key
    """
    from counterfoil.gateway.api_keys import new_api_key  # noqa: PLC0415

    made, sha256 = new_api_key(name)
    sys.stderr.write(
        f"[gateway.api_keys.{name}]\n"
        f"sha256 = {json.dumps(sha256)}\ntenant = {json.dumps(tenant)}\ntier = {json.dumps(tier)}\n"
    )
    sys.stdout.write(f"{made}\n")


def _configuration(admin: str, files: "StateFolder") -> dict[str, Any]:
    """What the running gateway says of its configuration."""
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415

    connection = http.client.HTTPConnection(admin, timeout=5.0)
    try:
        headers = {"authorization": f"Bearer {files.credential()}"}
        connection.request("GET", "/state", headers=headers)
        return json.loads(connection.getresponse().read())["configuration"]
    except (OSError, http.client.HTTPException, KeyError) as error:
        raise CounterfoilError(
            f"the gateway does not answer at {admin}: {error}", hint="see `counterfoil status`"
        ) from error
    finally:
        connection.close()
