"""Topics in Avro, by fastavro: written with the struct's schema, read with the writer's and ours.

A field that the writer's schema lacks gets the struct's default, not Avro's: that may be any Python
value, and is exact for every type.
"""

import copy
import datetime as dt
import io
import json
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, cast

import fastavro
import msgspec
from fastavro.validation import ValidationError

from counterfoil.events.errors import InvalidEvent, UndecodableEvent
from counterfoil.events.schemas.avro_compatibility import (
    incompatibilities,
    is_union,
    name_of,
    named_types,
)
from counterfoil.events.schemas.avro_schema import avro_schema
from counterfoil.events.schemas.codec import Read, RegisteredCodec
from counterfoil.events.schemas.schema import Incompatibility, Schema
from counterfoil.events.schemas.structs import below, check_times

_TIMES: Final = frozenset({"timestamp-micros", "time-micros"})
_BUILTIN: Final = (bytes, dt.datetime, dt.date, dt.time, uuid.UUID, Decimal)
"""Types that fastavro encodes itself."""


class AvroCodec(RegisteredCodec):
    """Events of a struct in Avro's binary encoding."""

    def __init__(self, event: type) -> None:
        self._event = event
        self._document = avro_schema(event)
        text = json.dumps(self._document, separators=(",", ":"))
        self._parsed: Any = fastavro.parse_schema(copy.deepcopy(self._document))
        self._has_times = any(f'"{each}"' in text for each in _TIMES)
        self._named = {name_of(each): each for each in named_types(self._document)}
        self._has_days = '"logicalType":"date"' in text
        super().__init__(Schema("AVRO", text))

    def write(self, value: Any) -> bytes:
        """Encode an event in binary.

        Raises:
            InvalidEvent: a number too large, a time without its zone, a value of another type.
        """
        datum = msgspec.to_builtins(value, builtin_types=_BUILTIN)
        if self._has_times:
            check_times(datum)
        if self._has_days:
            self._check_days(self._document, datum, "")
        buffer = io.BytesIO()
        try:
            # A tuple is one of our arrays, not fastavro's notation for a union's branch.
            fastavro.schemaless_writer(buffer, self._parsed, datum, disable_tuple_notation=True)
        except Exception as error:  # the library's errors have no common base
            raise InvalidEvent(self._misfit(datum, error)) from error
        return buffer.getvalue()

    def reader(self, writer: Schema) -> Read:
        """A decoder for a writer's events.

        Raises:
            UndecodableEvent: its schema would be misread as ours.
        """
        event, written, read = self._event, self._parsed, None
        if writer != self.schema:
            document = json.loads(writer.text)
            readable = _as_written(self._document, document)
            for each in incompatibilities(readable, document):
                if each.unnoticed:
                    raise UndecodableEvent(f"its writer's schema is another: {each}")
            written, read = fastavro.parse_schema(document), fastavro.parse_schema(readable)

        def decode(content: bytes) -> Any:
            buffer = io.BytesIO(content)
            datum = fastavro.schemaless_reader(buffer, written, read)
            if buffer.tell() != len(content):
                left = len(content) - buffer.tell()
                raise UndecodableEvent(f"{left} bytes are left behind the event")
            return cast("Any", msgspec.convert(datum, event))

        return decode

    def _check_days(self, schema: Any, datum: Any, path: str) -> None:
        """Reject a datetime in place of a date: fastavro would truncate it, in any time zone.

        Other misfits are left to fastavro.
        """
        if is_union(schema):
            (schema,) = (branch for branch in schema if branch != "null")
        if isinstance(schema, str):
            schema = self._named.get(schema)
        match schema, datum:
            case {"logicalType": "date"}, dt.datetime():
                raise InvalidEvent(f"{path}: is a day, and not a moment", hint="send its .date()")
            case {"type": "record", "fields": fields}, dict():
                known = cast("dict[str, Any]", datum)
                for field in fields:
                    name = field["name"]
                    self._check_days(field["type"], known.get(name), below(path, name))
            case {"type": "array", "items": items}, list() | tuple() | set() | frozenset():
                for each in cast("Iterable[Any]", datum):
                    self._check_days(items, each, f"{path}[]")
            case {"type": "map", "values": values}, dict():
                for each in cast("dict[str, Any]", datum).values():
                    self._check_days(values, each, f"{path}{{}}")
            case _:
                pass

    def _misfit(self, datum: Any, error: Exception) -> str:
        """Name the fields that do not fit, without their values, which may be confidential."""
        name = self._event.__name__
        try:
            fastavro.validate(  # its stub lacks the parameter
                datum,
                self._parsed,
                disable_tuple_notation=True,  # pyright: ignore[reportCallIssue]
            )
        except ValidationError as found:
            errors = cast("tuple[Any, ...]", found.errors)
            fields = ", ".join(sorted({each.field for each in errors if each.field}))
            return f"{fields or name}: does not fit the schema"
        except ValueError as found:  # for decimals, without the field
            return f"{name}: {found}"
        except Exception:  # validation can also fail itself, for instance at a NaN
            return f"{name}: does not fit the schema"
        return f"{name}: {type(error).__name__} as it was encoded"

    def incompatibilities(self, reader: Schema, writer: Schema) -> list[Incompatibility]:
        """Why one schema can't read what was written with the other; empty if it can."""
        return incompatibilities(json.loads(reader.text), json.loads(writer.text))


def _as_written(ours: Any, theirs: Any) -> Any:
    """Our schema without the fields that their records lack: the struct has their defaults."""
    ours = copy.deepcopy(ours)
    written = {name_of(each): each for each in named_types(theirs) if each["type"] == "record"}
    for record in list(named_types(ours)):
        if record["type"] == "record" and name_of(record) in written:
            known = {field["name"] for field in written[name_of(record)]["fields"]}
            record["fields"] = [field for field in record["fields"] if field["name"] in known]
    return ours
