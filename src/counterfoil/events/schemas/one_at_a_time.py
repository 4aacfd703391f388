"""Serialises registrations where the registry has no compare-and-set.

Confluent's API registers anything that satisfies the registry's own compatibility level, so two
concurrent new schemas would not be checked against each other by the topic's rule. Registering
first, and deleting one's version if it lost, doesn't work: by then a third schema may have been
checked against that version, or another process of the same release may be writing events with it.

So reading the newest version and registering are one step, under a lock that all processes of an
application share and that is kept with their state. Schemas registered by other means are checked
by the registry's own level only.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from counterfoil.events.errors import RegistryUnavailable, StoreUnavailable
from counterfoil.events.schemas.registry import Registry
from counterfoil.events.schemas.schema import Schema


class OneAtATime:
    """Wraps `registry`; registrations hold the lock that `alone` takes."""

    def __init__(
        self, registry: Registry, alone: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._registry = registry
        self._alone = alone

    def find(self, topic: str, schema: Schema) -> int | None:
        """The id of a schema that is a version of a topic's subject, or None."""
        return self._registry.find(topic, schema)

    def latest(self, topic: str) -> Schema | None:
        """The newest version of a topic's subject, or None if it has none."""
        return self._registry.latest(topic)

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int | None:
        """Register a schema as the newest version of a topic's subject, unless it is one already.

        None if the newest is no longer `after`.

        Raises:
            RegistryUnavailable: the registry or the lock is unavailable, or the lock was lost
                meanwhile: whether the schema was registered is unknown.
            IncompatibleSchema: the registry's own rules forbid it.
        """
        try:
            with self._alone():
                known = self._registry.find(topic, schema)
                if known is not None:
                    return known
                if self._registry.latest(topic) != after:
                    return None
                return self._registry.register(topic, schema, after=after)
        except StoreUnavailable as error:
            raise RegistryUnavailable(f"the lock for registering schemas: {error}") from error

    def schema(self, schema_id: int) -> Schema | None:
        """The schema with an id, or None if there is none."""
        return self._registry.schema(schema_id)
