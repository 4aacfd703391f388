"""`counterfoil engines`: runs the real engines on this machine, for trials and tests."""

import contextlib
import fcntl
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter

from counterfoil.cli.options import Engines, Folder, Json, State, state_folder
from counterfoil.cli.output import out, print_table, styled, write_json

if TYPE_CHECKING:
    from counterfoil.engines import RunningEngine

app = cyclopts.App(
    name="engines", help="Run the real engines on this machine, and check their settings."
)

EnginesFolder = Annotated[Path, Parameter(help="The folder with their files.")]
HERE = Path(".counterfoil-engines")


@app.command
def up(*names: str, folder: EnginesFolder = HERE) -> None:
    """Download what is missing and run the engines NAMES on free ports, until Ctrl-C.

    `secured-kafka` is Kafka with TLS and passwords.

    Example: counterfoil engines up redis etcd kafka postgres registry spark

    Parameters
    ----------
    names
        redis, postgres, kafka, secured-kafka, etcd, registry, spark.
    """
    from counterfoil.application.state import write_json as write_state  # noqa: PLC0415
    from counterfoil.engines import ENGINES, RunningEngine, start  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415

    unknown = [name for name in names if name not in ENGINES]
    if unknown or not names:
        raise CounterfoilError(
            f"unknown engine: {', '.join(unknown)}" if unknown else "which engines?",
            hint=f"name some of: {', '.join(ENGINES)}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with contextlib.ExitStack() as stack, (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CounterfoilError(
                f"engines run in {folder}", hint="use another --folder"
            ) from None
        running: list[RunningEngine] = []
        for name in dict.fromkeys(names):
            with out.status(f"starting {name}") as status:
                engine = start(name, folder / name, tell=status.update)
            running.append(stack.enter_context(engine))
            out.print(f"[green]ready[/]  {name:<9} {engine.address}", highlight=False)
            write_state(folder / "engines.json", _document(running))
        out.print("\n[bold]\\[addresses][/]  # for counterfoil.toml", highlight=False)
        for engine in running:
            name = engine.name.removeprefix("secured-")
            out.print(f'{name} = "{engine.address}"', highlight=False, soft_wrap=True)
            if engine.name == "secured-kafka":
                _print_access(engine)
        if {"redis", "postgres"} & set(names):
            out.print(exported(folder / running[0].name / "credential"), soft_wrap=True)
        while not ended.wait(0.2):
            continue
        out.print("stopping")
    (folder / "engines.json").unlink()


def exported(secret: Path) -> str:
    """What a shell takes, in one line, for the passwords of all that was started here.

    Two commands: a shell fills in the words of a command before it carries it out, so that one
    `export` would give the second name what the first one was before.
    """
    path = shlex.quote(str(secret.resolve()))
    return f'export PGPASSWORD="$(cat {path})"; export REDIS_PASSWORD="$PGPASSWORD"'


@app.command
def status(*, folder: EnginesFolder = HERE, as_json: Json = False) -> None:
    """Show the engines that run in FOLDER. Exit 1 if one of their servers has ended.

    Example: counterfoil engines status --json
    """
    document = _running(folder)
    for each in document["servers"]:
        each["state"] = "running" if Path(f"/proc/{each['pid']}").exists() else "ended"
    if as_json:
        write_json(document)
    else:
        for each in document["servers"]:
            line = f"{each['state']:<8} {each['engine']:<9} {each['kind']:<13} {each['pid']:>7}"
            out.print(f"{line}  {each['address']}", highlight=False, soft_wrap=True)
    if any(each["state"] != "running" for each in document["servers"]):
        sys.exit(1)


@app.command
def down(*, folder: EnginesFolder = HERE) -> None:
    """Stop the engines that run in FOLDER, and wait for their end.

    Example: counterfoil engines down
    """
    from counterfoil.engines import send_signal  # noqa: PLC0415

    document = _running(folder)
    send_signal(document["pid"], signal.SIGTERM)
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # held until the last server has ended


@app.command(name="check")
def check_application(
    path: Folder = Path(),
    *,
    state: State = None,
    engines: Engines = "",
    as_json: Json = False,
) -> None:
    """Check the application's real engines for settings that break a guarantee.

    These are the engines with an address in counterfoil.toml, and those of a
    running application. Nothing is changed. Exit 1 if a guarantee is broken;
    what only weakens one is shown as a warning.

    Example: counterfoil engines check examples/shop --engines events=kafka
    """
    import time  # noqa: PLC0415

    from counterfoil.application import StateFolder, load  # noqa: PLC0415
    from counterfoil.cli.running import addresses, is_running  # noqa: PLC0415
    from counterfoil.engines.checks import Level, checkable  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415
    from counterfoil.supervisor import Addresses, check_engines, configured_engines  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    if is_running(files):
        found = addresses(files)
        configuration = load(path, engines=found.chosen, own_servers=found.own_servers)
    else:
        configuration = load(path, engines=engines)
        found = Addresses("", "", "", "", engines=configured_engines(configuration))
    names = [name for name in found.engines if name in checkable]
    if not names:
        raise CounterfoilError(
            "there is no engine to check",
            hint="it needs an address in counterfoil.toml, or `counterfoil up` to run it",
        )
    findings = check_engines(configuration, files, found, time.time())
    if as_json:
        write_json(findings)
    elif not findings:
        out.print(f"nothing to change: {', '.join(names)}")
    else:
        print_table(
            ("engine", "", "setting", "is", "should be", "what to do"),
            [
                (
                    each.engine,
                    styled(str(each.level), "red" if each.level is Level.BREAKS else "yellow"),
                    each.setting,
                    each.found,
                    each.needed,
                    each.remedy,
                )
                for each in findings
            ],
        )
    if any(each.level is Level.BREAKS for each in findings):
        sys.exit(1)


def _print_access(engine: "RunningEngine") -> None:
    from counterfoil.engines.secured_kafka import access  # noqa: PLC0415
    from counterfoil.kafka_access import PASSWORD  # noqa: PLC0415

    found = access(engine)
    out.print("\n[bold]\\[kafka][/]", highlight=False)
    settings = {"protocol": found.protocol, "user": found.user, "ca": found.ca}
    for name, value in settings.items():
        out.print(f'{name} = "{value}"', highlight=False, soft_wrap=True)
    credential = (engine.servers[0].folder.parent / "credential").resolve()
    out.print(f"export {PASSWORD}=$(cat {credential})", soft_wrap=True)


def _running(folder: Path) -> dict[str, Any]:
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415

    with contextlib.suppress(FileNotFoundError), (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found: dict[str, Any] = json.loads((folder / "engines.json").read_text())
            return found
    raise CounterfoilError(f"no engines run in {folder}", hint="counterfoil engines up redis")


def _document(running: list[Any]) -> dict[str, object]:
    servers = [
        {
            "engine": engine.name,
            "kind": each.server.kind,
            "pid": each.pid,
            "address": each.server.address(each.port),
        }
        for engine in running
        for each in engine.servers
    ]
    return {"pid": os.getpid(), "servers": servers}
