"""The whole move: nothing runs during it, and nothing is switched before the sums agree.

Embedded data is only read, so a move that fails changes nothing for the application. Tables and
published reports are the same files for both engines of reports, and limits have no state that must
persist.
"""

import asyncio
from contextlib import closing
from pathlib import Path

import msgspec

from counterfoil.application import (
    Application,
    Configuration,
    EnginesConfig,
    StateFolder,
    load,
    load_application,
)
from counterfoil.coordination import Client
from counterfoil.events import KafkaEvents, create_all_tables
from counterfoil.move.coordination import copy_bounds, forget_tokens
from counterfoil.move.errors import MoveError
from counterfoil.move.events import Carried, Tell, copy_events
from counterfoil.proof.reconcile import Sum, ledger_transfers, log_events, service_rows
from counterfoil.proof.stores import Stores, open_stores
from counterfoil.supervisor import (
    Supervisor,
    last_addresses,
    open_coordination,
    open_events,
    write_engines,
    written_engines,
)


class Moved(msgspec.Struct, frozen=True):
    """The engines before and after, and the sums of each store, which are equal on both."""

    before: EnginesConfig
    after: EnginesConfig
    sums: dict[str, Sum]
    carried: Carried | None
    """What was carried to another engine of events; None if that engine didn't change."""


async def move(folder: Path, state: Path, engines: str, tell: Tell) -> Moved:
    """Move the application in `folder`, which must not be running, to `engines`.

    Raises:
        MoveError: there is nothing to move, the target is not empty, or the sums don't agree.
        AlreadyRunning: the application runs.
    """
    files = StateFolder(state)
    before, configuration = written_engines(files), load(folder, engines=engines)
    if before is None:
        raise MoveError(f"nothing has run in {state}", hint="just start it with the new engines")
    after = configuration.engines
    for part in ("events", "coordination"):
        old, new = getattr(before, part), getattr(after, part)
        if old not in (new, "embedded"):
            raise MoveError(f"{part} are on {old}", hint="only what is embedded can be moved")
    if before.schemas != after.schemas:
        raise MoveError(
            "schemas would get other ids, and events name them by their ids",
            hint=f"move with schemas={before.schemas}",
        )
    supervisor = Supervisor(folder, state, free_ports=True, engines=engines, only_engines=True)
    application = load_application(supervisor.folder, configuration.application.module)
    tell("starting the engines")
    async with supervisor.running():
        sums, carried = await asyncio.to_thread(
            _copy, application, before, configuration, files, tell
        )
        write_engines(files, after)
    return Moved(before, after, sums, carried)


def _copy(
    application: Application,
    before: EnginesConfig,
    configuration: Configuration,
    files: StateFolder,
    tell: Tell,
) -> tuple[dict[str, Sum], Carried | None]:
    after, name = configuration.engines, application.name
    addresses = last_addresses(files)
    old = msgspec.structs.replace(configuration, engines=before)
    sums = _sums(application, open_stores(name, old, files))
    carried: Carried | None = None
    if after.events != before.events:
        target = open_events(name, configuration, files, addresses)
        assert isinstance(target, KafkaEvents), "the one other engine of events"
        target.log().check_rights([], application.position_holders())  # before anything is filled
        carried = copy_events(application, files, target, tell)
    if after.coordination != before.coordination:
        tell("machine numbers")
        client: Client = open_coordination(name, configuration, files, addresses)
        copy_bounds(files.coordination, client)
        events = open_events(name, configuration, files, addresses)
        with closing(events.pipelines()) as store:
            create_all_tables(store.database)
            forget_tokens(files.log, store.database)
    tell("comparing")
    found = _sums(application, open_stores(name, configuration, files))
    if found != sums:
        raise MoveError(f"the sums differ: {sums} before, {found} after")
    return found, carried


def _sums(application: Application, stores: Stores) -> dict[str, Sum]:
    counterfoils = application.counterfoils
    if counterfoils is None:
        return {}
    pairs = {
        "accepted": service_rows(counterfoils, stores)[0],
        "log": log_events(counterfoils, stores),
        "ledger": ledger_transfers(counterfoils, stores),
    }
    return {
        name: Sum(len(those), sum(amount for _, amount in those)) for name, those in pairs.items()
    }
