"""All tables of the pipelines' database, for copying them elsewhere."""

from counterfoil.events.database import Database
from counterfoil.events.sagas.instances import SCHEMA as SAGAS
from counterfoil.events.schemas.embedded_registry import SCHEMA as SCHEMAS
from counterfoil.events.tasks.waiting import SCHEMA as TASKS


def create_all_tables(database: Database) -> None:
    """Create what sagas, task queues and schemas would create when used.

    The tables of `PipelineStore` are there already.
    """
    database.create([SAGAS, TASKS, SCHEMAS])
