"""The commands. Each imports what it needs when it runs, so that `--help` answers at once."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts import Parameter
from rich.text import Text

from counterfoil.cli.anomalies import verify_transactions
from counterfoil.cli.dlq import app as dead_letter_commands
from counterfoil.cli.engines import app as engine_commands
from counterfoil.cli.gateway import app as gateway_commands
from counterfoil.cli.hot_keys import hot_keys
from counterfoil.cli.logs import logs
from counterfoil.cli.options import (
    Engines,
    Folder,
    Json,
    State,
    state_folder,
)
from counterfoil.cli.output import out, print_table, styled, write_json
from counterfoil.cli.proving import prove
from counterfoil.cli.reports import report, reports
from counterfoil.cli.sagas import saga, sagas
from counterfoil.cli.tasks import tasks
from counterfoil.cli.topics import forget, lag, read, topics
from counterfoil.cli.transactions import app as transaction_commands
from counterfoil.errors import CounterfoilError


def _shown_default(default: object) -> str | None:
    """A default as `--help` tells it; of a switch that is off, and of what is empty, nothing."""
    return None if default is None or default is False or default in ("", ()) else str(default)


app = cyclopts.App(
    name="counterfoil",
    help="One backbone, from request to report, exactly once.",
    help_format="plaintext",  # keeps each example on a line of its own
    default_parameter=Parameter(negative="", show_default=_shown_default),
)
app.register_install_completion_command(
    help="Install completion of commands and options for this shell."
)
events = cyclopts.App(
    name="events", help="Inspect the event log and its consumers; handle dead letters."
)
app.command(events)
app.command(engine_commands)
app.command(gateway_commands)
app.command(logs)
app.command(prove)
app.command(reports)
app.command(report)
events.command(dead_letter_commands)
events.command(transaction_commands)
events.command(lag)
events.command(topics)
events.command(forget)
events.command(read)
events.command(sagas)
events.command(saga)
events.command(tasks)
events.command(hot_keys)
events.command(verify_transactions, name="verify")


@app.command
def up(
    path: Folder = Path(), *, state: State = None, free_ports: bool = False, engines: Engines = ""
) -> None:
    """Run the application in PATH, with everything that it needs, until Ctrl-C.

    Examples: counterfoil up examples/shop
              counterfoil up examples/shop --engines events=kafka,coordination=etcd

    Parameters
    ----------
    free_ports
        Listen on free ports of 127.0.0.1 instead, and order no certificates.
    """
    from counterfoil.cli.inspection import left_behind  # noqa: PLC0415
    from counterfoil.faults import enabled_sabotage  # noqa: PLC0415
    from counterfoil.supervisor import Child, Supervisor, open_events  # noqa: PLC0415

    if (sabotage := enabled_sabotage()) is not None:
        raise CounterfoilError(
            f"COUNTERFOIL_SABOTAGE={sabotage} enables a bug that loses or doubles payments",
            hint="unset it; `counterfoil prove --sabotage` sets it for a proof",
        )
    seen: dict[str, str] = {}
    colours = {"ready": "green", "restarting": "yellow", "in trouble": "red", "stopped": "dim"}

    def show(children: Sequence[Child]) -> None:
        for child in children:
            name, state = child.plan.name, "in trouble" if child.trouble else child.state
            if seen.get(name) != state:
                seen[name] = state
                if state in colours:
                    line = f"  {name:<22} {child.trouble or child.detail}"
                    out.print(Text.assemble((f"{state:>10}", colours[state]), line))

    async def run() -> None:
        supervisor = Supervisor(
            path, state_folder(path, state), free_ports=free_ports, engines=engines, on_change=show
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop)
        running = asyncio.create_task(supervisor.run())
        if await supervisor.started(running) and supervisor.loaded and supervisor.addresses:
            for service, applied in supervisor.migrated.items():
                for each in applied:
                    out.print(Text(f"migrated {service}: {each.number}, {each.what}"))
            out.print(f"gateway  https://{supervisor.addresses.gateway}", highlight=False)
            address = supervisor.console_address()
            out.print(f"console  {address}", highlight=False, soft_wrap=True)
            application, configuration = supervisor.loaded
            places = supervisor.state, supervisor.addresses
            events = open_events(application.name, configuration, *places)
            for line in await asyncio.to_thread(left_behind, application, events):
                out.print(Text(line, "yellow"))
        await running

    asyncio.run(run())


@app.command
def new(path: Path) -> None:
    """Write a small application with its tests into the new folder PATH.

    Example: counterfoil new wallet && counterfoil prove wallet

    Parameters
    ----------
    path
        The folder; its last part is the name of the application's module.
    """
    from counterfoil.cli.scaffold import write_application  # noqa: PLC0415

    for written in write_application(path):
        out.print(written, highlight=False, markup=False, soft_wrap=True)
    line = f"next: counterfoil up {path}, counterfoil prove {path}, pytest {path}"
    out.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command
def status(
    path: Folder = Path(),
    *,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show the processes of a running application, and how many dead letters wait.

    Exit 1 if nothing runs, or a process is not ready or makes no progress.

    Examples: counterfoil status examples/shop
              counterfoil status examples/shop --json
    """
    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.inspection import events_of, print_waiting, waiting_letters  # noqa: PLC0415
    from counterfoil.cli.running import is_running  # noqa: PLC0415
    from counterfoil.cli.times import duration_text  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    if not is_running(files):
        sys.stderr.write(
            f"counterfoil: nothing runs in {files.root}\n  hint: counterfoil up {path}\n"
        )
        sys.exit(1)
    document: dict[str, Any] = json.loads(files.run.read_text())
    waiting = waiting_letters(events_of(path, files.root))
    document["dead_letters"] = waiting
    if as_json:
        write_json(document)
    else:
        print_table(
            ("process", "kind", "state", "for", "restarts", "pid", "detail"),
            [
                (
                    each["name"],
                    each["kind"],
                    _standing(each),
                    duration_text(time.time() - each["since"]) if each["since"] else "",
                    each["restarts"],
                    str(each["pid"] or ""),
                    each["detail"],
                )
                for each in document["processes"]
            ],
            right=("for", "pid"),
        )
        for each in document["processes"]:
            if each["trouble"]:
                out.print(Text.assemble(("in trouble", "red"), f"  {each['name']}: "), end="")
                out.print(Text(each["trouble"]))
        print_waiting(waiting)
    if any(each["state"] != "ready" or each["trouble"] for each in document["processes"]):
        sys.exit(1)


def _standing(process: dict[str, Any]) -> Text:
    if process["trouble"]:
        return styled("in trouble", "red")
    return styled(process["state"], "green" if process["state"] == "ready" else "red")


@app.command
def move(
    path: Folder = Path(),
    *,
    engines: str,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Copy the data of the application in PATH, which must be stopped, to the real engines.

    The embedded data is only read. Nothing is switched unless the sums on both sides agree.

    Example: counterfoil move examples/shop --engines events=kafka,coordination=etcd

    Parameters
    ----------
    engines
        The new engines: PART=ENGINE, comma-separated.
    """
    import msgspec  # noqa: PLC0415

    from counterfoil.cli.running import run_to_the_end  # noqa: PLC0415
    from counterfoil.cli.verdict import major  # noqa: PLC0415
    from counterfoil.move import move as run  # noqa: PLC0415

    def tell(line: str) -> None:
        if not as_json:
            out.print(line, highlight=False)

    moved = run_to_the_end(run(path, state_folder(path, state), engines, tell))
    if as_json:
        write_json(moved)
        return
    if moved.carried is not None:
        each = moved.carried
        out.print(f"{each.rows:,} rows of {each.tables} tables", highlight=False)
        out.print(f"{each.records:,} events of {each.topics} topics", highlight=False)
    for name, each in moved.sums.items():
        out.print(f"{name:<9} {each.count:>9,} {major(each.amount):>16}", highlight=False)
    out.print(
        "each of these is the same on both sides; set in counterfoil.toml:\n\n[bold]\\[engines][/]"
    )
    for part, engine in msgspec.to_builtins(moved.after).items():
        out.print(f'{part} = "{engine}"', highlight=False)


@app.command
def trace(
    identity: str,
    path: Folder = Path(),
    *,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Follow one payment from request to report, by its id or its Idempotency-Key.

    Exit 1 if it is unknown.

    Example: counterfoil trace 1234567890123456789 examples/shop

    Parameters
    ----------
    identity
        The id in the service's answer, or the request's Idempotency-Key.
    """
    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.inspection import application_and_events  # noqa: PLC0415
    from counterfoil.cli.verdict import print_trace  # noqa: PLC0415
    from counterfoil.proof.stores import open_stores  # noqa: PLC0415
    from counterfoil.proof.trace import trace as follow  # noqa: PLC0415
    from counterfoil.supervisor import last_configuration  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    application, events = application_and_events(path, files.root)
    stores = open_stores(application.name, last_configuration(path, files), files)
    found = follow(application, stores, events.log(), identity)
    print_trace(identity, found, as_json=as_json)
    if application.counterfoils is None:
        sys.stderr.write(
            f"{application.name} has no app.matches(...), which would say in which table, lake and "
            "report to look as well\n"
        )
    sys.exit(0 if found else 1)


@app.command
def token(path: Folder = Path(), *, tenant: str, tier: str = "gold", state: State = None) -> None:
    """Print a token from the development issuer of a running application.

    Example: counterfoil token examples/shop --tenant aurora --tier bronze

    Parameters
    ----------
    tenant
        The tenant that the token is for.
    tier
        The tenant's tier.
    """
    import httpx2  # noqa: PLC0415

    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.running import addresses  # noqa: PLC0415

    found = addresses(StateFolder(state_folder(path, state)))
    if not found.issuer:
        raise CounterfoilError(
            "this application has no development issuer", hint="[issuer] in counterfoil.toml"
        )
    try:
        answer = httpx2.post(f"http://{found.issuer}/token", data={"tenant": tenant, "tier": tier})
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        raise CounterfoilError(
            f"the development issuer gave no token: {error}", hint="see `counterfoil status`"
        ) from error
    sys.stdout.write(answer.json()["access_token"] + "\n")
