"""Brings the tables of all services to where the application needs them, before anything runs.

An instance would do it as well, as it opens its database. But here it may take as long as it takes,
and what is refused is told to whoever starts the application, and not to a log.
"""

from contextlib import closing

from counterfoil.application import Application
from counterfoil.events import Applied, Events, MigrationRefused, create_service
from counterfoil.supervisor.host import now_us


def migrate_services(application: Application, events: Events) -> dict[str, list[Applied]]:
    """Make and migrate the tables of all services; returns what was applied, by service.

    Raises:
        MigrationRefused: of which service, and why; those before it are migrated.
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
