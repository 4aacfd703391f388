"""`counterfoil gateway`: check its configuration, put it into force, make keys."""

import json
import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console

app = cyclopts.App(name="gateway", help="Check and reload the gateway's configuration; make keys.")
out = Console()

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]


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
    from counterfoil.supervisor.gateway_control import GatewayControl  # noqa: PLC0415

    check(path)
    files = StateFolder(state if state is not None else path / ".counterfoil")
    version = GatewayControl(addresses(files).admin, files).reload()
    out.print(f"configuration {version} is in force", highlight=False)


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
