"""All tables of the pipelines' database, for copying them elsewhere."""

from counterfoil.events.database import Database
from counterfoil.events.sagas.instances import SCHEMA as SAGAS
from counterfoil.events.schemas.embedded_registry import SCHEMA as SCHEMAS
from counterfoil.events.tasks.waiting import SCHEMA as TASKS


def create_all_tables(database: Database) -> None:
    """Create the tables that sagas, task queues and schemas would create on use.

    Those of `PipelineStore` exist already.
    """
    database.create([SAGAS, TASKS, SCHEMAS])
