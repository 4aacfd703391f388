"""What exactly once costs, by leaving it out: an exchange on Kafka without a transaction.

Not a part of the product. Everything but the commit is the product's own: what is emitted is sent
by an idempotent producer, and the positions once all of it is acknowledged. A crash between the two
sends it again.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

from counterfoil.events import Batch, LogUnavailable, Message
from counterfoil.events.kafka import KafkaLog
from counterfoil.events.kafka_client import CALL_SECONDS, SENDING, produce
from counterfoil.events.kafka_exchange import KafkaExchange
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic


class AtLeastOnceLog(KafkaLog):
    """A log whose exchanges commit nothing."""

    def exchange(
        self, consumer: str, topics: Sequence[AnyTopic], share: Share = ALL
    ) -> KafkaExchange:
        """The product's, with another producer."""
        made = super().exchange(consumer, topics, share)
        made.__class__ = AtLeastOnce
        return cast("AtLeastOnce", made).without_transactions(self._connection)


class AtLeastOnce(KafkaExchange):
    """Sends, waits, and then writes the positions."""

    def without_transactions(self, connection: dict[str, Any]) -> "AtLeastOnce":
        from confluent_kafka import Producer

        self._producer.close()
        self._producer = Producer({**connection, **SENDING, "enable.idempotence": True})
        return self

    def commit(self, batches: Sequence[Batch], messages: Sequence[Message]) -> None:
        """Begin to wait for what is sent."""
        self.settle()
        for message in messages:
            produce(self._producer, *self._place(message), message)
        self._moved = {(batch.topic, batch.partition): batch.end for batch in batches}
        self._committing = self._commits.submit(self._acknowledged, dict(self._moved))

    def _acknowledged(self, moved: dict[tuple[str, int], int]) -> None:
        self._flush()
        for (topic, partition), following in moved.items():
            self._producer.produce(
                self._positions_topic,
                partition=0,
                key=f"{topic}/{partition}".encode(),
                value=json.dumps({"next": following}).encode(),
            )
        self._flush()

    def _flush(self) -> None:
        if self._producer.flush(CALL_SECONDS):
            raise LogUnavailable("not all was acknowledged")
