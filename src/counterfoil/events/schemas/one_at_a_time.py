"""Serialises registrations where the registry has no compare-and-set.

Confluent's API registers under a subject whatever fits the registry's own compatibility level, so
of two new schemas at the same instant neither would be held against the other by the topic's rule.
To register first and look afterwards, taking one's own version back if it loses, would not do: by
then a third may have been held against that version, or another process of the same release may
have found it registered and be writing events of it.

So the look at the newest version and the registration are one step under a lock that all processes
of an application share: it is kept where their state is. Whoever registers under its subjects by
other means is held against the registry's own level alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from counterfoil.events.errors import RegistryUnavailable, StoreUnavailable
from counterfoil.events.schemas.registry import Registry
from counterfoil.events.schemas.schema import Schema


class OneAtATime:
    """`registry`, in which who holds the lock that `alone` takes is alone in registering."""

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
        """Make a schema the newest version of a topic's subject, if it is none yet.

        None if the newest is no longer `after`.

        Raises:
            RegistryUnavailable: the registry or the lock can't be had, or the lock was lost on the
                way: nobody knows whether the schema was registered.
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
