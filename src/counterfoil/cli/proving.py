"""`counterfoil prove`: runs an application under faults and reconciles every cent."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from counterfoil.cli.options import Count, Engines, Folder, Json, Seconds
from counterfoil.cli.output import new_console, out
from counterfoil.faults import SABOTAGES


def prove(
    path: Folder = Path(),
    *,
    purchases: Count = 5_000,
    seed: int = 1,
    faults: str = "kill,pause",
    fault_number: Annotated[int, Parameter(validator=Number(gte=0))] = 24,
    outage_seconds: Seconds = 30.0,
    engines: Engines = "",
    sabotage: str | None = None,
    list_sabotage: bool = False,
    state: Path | None = None,
    addresses: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
) -> None:
    """Run the application under faults, and check that every cent arrived exactly once.

    Exit 0: nothing was lost, doubled or changed. Exit 1: something was. Exit 2: could not run.

    Examples: counterfoil prove examples/shop --purchases 5000 --seed 7 --faults kill,pause
              counterfoil prove examples/shop --sabotage idempotency-off
              counterfoil prove examples/shop --engines events=kafka,reports=spark

    Parameters
    ----------
    purchases
        How many requests of the application's workload to send.
    faults
        kill, pause, outage (of each real engine started for the run), or none; comma-separated.
    fault_number
        The number of faults, spread over the load.
    seed
        Determines the requests and the times of the faults.
    outage_seconds
        The length of an engine's outage.
    engines
        Engines to use: PART=ENGINE, comma-separated; they are started, and struck by faults.
    addresses
        Use the servers in `[addresses]`, without faults; they must hold none of its data.
    sabotage
        Switch on one seeded bug; the verdict must then be a failure.
    list_sabotage
        List the seeded bugs, and run nothing.
    state
        Keep the run's files in this new folder; by default they are deleted.
    """
    if list_sabotage:
        for name in SABOTAGES:
            sys.stdout.write(name + "\n")
        return
    from counterfoil.cli.running import run_to_the_end  # noqa: PLC0415
    from counterfoil.cli.verdict import print_report, print_verdict  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415
    from counterfoil.proof.prove import prove as run  # noqa: PLC0415

    actions = [] if faults == "none" else faults.split(",")
    unknown = set(actions) - {"kill", "pause", "outage"}
    if unknown:
        raise CounterfoilError(
            f"unknown fault: {', '.join(sorted(unknown))}", hint="kill, pause, outage or none"
        )
    if sabotage is not None and sabotage not in SABOTAGES:
        raise CounterfoilError(f"no sabotage {sabotage!r}", hint="see --list-sabotage")
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn  # noqa: PLC0415

    progress_console = new_console(stderr=True)
    progress_console.quiet = as_json
    with (
        tempfile.TemporaryDirectory(prefix="counterfoil-") as temporary,
        Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=progress_console,
        ) as progress,
    ):
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done, total=total)

        def tell(address: str) -> None:
            progress.console.print(f"console  {address}", highlight=False, soft_wrap=True)

        files = state if state is not None else Path(temporary)
        verdict = run_to_the_end(
            run(
                path,
                files,
                purchases=purchases,
                seed=seed,
                actions=actions,
                engines=engines,
                sabotage=sabotage,
                fault_number=fault_number,
                outage_seconds=outage_seconds,
                addresses=addresses,
                on_progress=show,
                on_up=tell,
            )
        )
        if not as_json:
            print_report(path, files)
    print_verdict(verdict, as_json=as_json)
    if state is not None and not as_json:
        line = f"in the console: counterfoil up {path} --state {state}"
        line += f" --engines {engines}" if engines else ""
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    sys.exit(0 if verdict.verdict == "holds" else 1)
