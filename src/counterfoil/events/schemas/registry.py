"""The interface to schema registries: schemas by subject and by id."""

from typing import Protocol

from counterfoil.events.schemas.schema import Schema


class Registry(Protocol):
    """Stores the versions of topics' schemas, by subject; equal schemas have the same id.

    Every method raises `RegistryUnavailable` if the registry can't be reached. Methods may be
    called from any thread. No connection is kept between calls, which are few: each process asks
    for a schema once.
    """

    def find(self, topic: str, schema: Schema) -> int | None:
        """The id of a schema that is a version of a topic's subject, or None."""
        ...

    def latest(self, topic: str) -> Schema | None:
        """The newest version of a topic's subject, or None if it has none."""
        ...

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int | None:
        """Register a schema as the newest version of a topic's subject, unless it is one already.

        The caller has checked it against `after`, the newest version (None if there was none).
        Returns its id, or None if the newest is no longer `after`: nothing was registered, check
        again.

        Raises:
            IncompatibleSchema: the registry's own rules forbid it.
        """
        ...

    def schema(self, schema_id: int) -> Schema | None:
        """The schema with an id, or None if there is none."""
        ...
