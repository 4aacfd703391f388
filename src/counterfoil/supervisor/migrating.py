"""Migrates the tables of all services, before anything runs.

An instance would do it as well when it opens its database. Here it may take any time, and errors
are reported to whoever starts the application rather than to a log.
"""

from contextlib import closing

from counterfoil.application import Application
from counterfoil.events import Applied, Events, MigrationRefused, create_service
from counterfoil.supervisor.host import now_us


def migrate_services(application: Application, events: Events) -> dict[str, list[Applied]]:
    """Create and migrate the tables of all services; returns what was applied, by service.

    Raises:
        MigrationRefused: names the service and the reason; services before it are migrated.
        StoreUnavailable: a database can't be used.
    """
    done: dict[str, list[Applied]] = {}
    for name, service in application.services.items():
        with closing(events.service(name)) as database:
            try:
                done[name] = create_service(database, service.schema, service.migrations, now_us)
            except MigrationRefused as error:
                raise MigrationRefused(
                    f"service {name}: {error.args[0]}", hint=error.hint
                ) from error
    return done
