"""All tables of the pipelines' database, for whoever fills a new one."""

from counterfoil.events.database import Database
from counterfoil.events.parallel.runner import SCHEMA as PARALLEL
from counterfoil.events.sagas.instances import SCHEMA as SAGAS
from counterfoil.events.tasks.waiting import SCHEMA as TASKS


def create_all_tables(database: Database) -> None:
    """Create what sagas, parallel pipelines and task queues would create once they run.

    The tables of `PipelineStore` are there already.
    """
    database.create([SAGAS, PARALLEL, TASKS])
