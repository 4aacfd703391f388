"""The registry port: schemas by subject and by id."""

from typing import Protocol

from counterfoil.events.schemas.schema import Schema


class Registry(Protocol):
    """Keeps the schemas of topics, each under a subject, in versions; equal ones have one id.

    Every method raises `RegistryUnavailable` when the registry can't be reached. They may be called
    from any thread; no connection is held between two calls, which are few: each process asks for
    a schema once.
    """

    def find(self, topic: str, schema: Schema) -> int | None:
        """The id of a schema that is a version of a topic's subject, or None."""
        ...

    def latest(self, topic: str) -> Schema | None:
        """The newest version of a topic's subject, or None if it has none."""
        ...

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int | None:
        """Make a schema the newest version of a topic's subject, if it is none yet.

        It was checked against `after`, the newest one by then (None if there was none). Returns its
        id, or None if another has become the newest since: nothing was registered, look again.

        Raises:
            IncompatibleSchema: the registry's own rules forbid it.
        """
        ...

    def schema(self, schema_id: int) -> Schema | None:
        """The schema with an id, or None if there is none."""
        ...
