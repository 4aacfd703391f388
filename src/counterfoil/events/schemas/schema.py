"""A registered schema, and the rules for its successor."""

from typing import Final, Literal

import msgspec

SchemaType = Literal["AVRO", "PROTOBUF"]
Compatibility = Literal["BACKWARD", "FORWARD", "FULL", "NONE"]
"""BACKWARD: the new schema reads what was written with the last one. FORWARD: the last one reads
what is written with the new one. FULL: both. NONE: no check."""
SCHEMA_CHARACTERS: Final = 1 << 20
"""Maximum length of a schema's text: far above any that people write."""


class Schema(msgspec.Struct, frozen=True):
    """A schema's text: JSON for Avro, a `FileDescriptorProto` in base64 for Protobuf."""

    type: SchemaType
    text: str


class Incompatibility(msgspec.Struct, frozen=True):
    """Why a reader's schema is incompatible: the field (`lines[].amount`), and the rule."""

    field: str
    rule: str
    unnoticed: bool = False
    """Whether a reader would silently read something else than was written."""

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}"
