"""What can be seen of consumers from outside."""

from counterfoil.events.log import EventLog
from counterfoil.events.messages import Lag
from counterfoil.events.pipeline_store import PipelineStore


def lag(log: EventLog, store: PipelineStore) -> list[Lag]:
    """Every consumer's distance from the end of each partition."""
    consumers = store.consumers()
    ends = {topic: log.ends(topic) for topic in {topic for _, topic, _, _ in consumers}}
    found: list[Lag] = []
    for consumer, topic, partition, committed in consumers:
        end = ends[topic].get(partition, 0)
        found.append(Lag(consumer, topic, partition, committed, end, end - committed))
    return found
