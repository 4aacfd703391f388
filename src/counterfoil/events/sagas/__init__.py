"""Sagas: orchestrated by a coordinator, or choreographed by events and traced."""

from counterfoil.events.sagas.choreography import Choreography, ChoreographyTracer
from counterfoil.events.sagas.context import StepContext
from counterfoil.events.sagas.coordinator import SagaCoordinator
from counterfoil.events.sagas.progress import Status as SagaStatus
from counterfoil.events.sagas.saga import Saga, Step, StepFailed
from counterfoil.events.sagas.timeline import Happening, SagaPlace, Sagas, SagaView

__all__ = [
    "Choreography",
    "ChoreographyTracer",
    "Happening",
    "Saga",
    "SagaCoordinator",
    "SagaPlace",
    "SagaStatus",
    "SagaView",
    "Sagas",
    "Step",
    "StepContext",
    "StepFailed",
]
