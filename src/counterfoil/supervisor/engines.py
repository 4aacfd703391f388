"""Opens the engines that an application's configuration names."""

from counterfoil.application import Configuration, StateFolder
from counterfoil.events import EmbeddedEvents, Events, KafkaEvents
from counterfoil.supervisor.plan import Addresses


def open_events(
    name: str, configuration: Configuration, state: StateFolder, addresses: Addresses
) -> Events:
    """The events of the application `name`; nothing is connected yet."""
    if configuration.engines.events == "embedded":
        return EmbeddedEvents(state.root)
    # A server that was started here has this application's secret; libpq finds every other.
    password = None if configuration.addresses.postgres else state.credential()
    return KafkaEvents(
        addresses.engines["kafka"], addresses.engines["postgres"], password, application=name
    )
