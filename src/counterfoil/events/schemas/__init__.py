"""Formats of events beside JSON, and the registries of their schemas."""

from counterfoil.events.schemas import wire
from counterfoil.events.schemas.codec import Codec, Format, codec_of
from counterfoil.events.schemas.confluent_registry import ConfluentRegistry
from counterfoil.events.schemas.embedded_registry import EmbeddedRegistry
from counterfoil.events.schemas.one_at_a_time import OneAtATime
from counterfoil.events.schemas.registry import Registry
from counterfoil.events.schemas.schema import Compatibility, Incompatibility, Schema

__all__ = [
    "Codec",
    "Compatibility",
    "ConfluentRegistry",
    "EmbeddedRegistry",
    "Format",
    "Incompatibility",
    "OneAtATime",
    "Registry",
    "Schema",
    "codec_of",
    "wire",
]
