"""Decodes the messages of PostgreSQL's output plugin `pgoutput`.

Supports only inserts into published tables, with binary values, in version 1 of the protocol. A
publication of inserts sends nothing else; any other message is an error. Source: "Logical
Replication Message Formats" in PostgreSQL's documentation.
"""

import struct
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from counterfoil.events.errors import EventsError

_COLUMN: Final = struct.Struct("!Ii")
_COMMIT: Final = struct.Struct("!Bqqq")
_BIGINT: Final = struct.Struct("!q")
_COUNT: Final = struct.Struct("!h")
_LENGTH: Final = struct.Struct("!i")
_OID: Final = struct.Struct("!I")
_VALUES: Final[MappingProxyType[int, Callable[[bytes], Any]]] = MappingProxyType(
    {17: bytes, 20: lambda value: _BIGINT.unpack(value)[0], 25: bytes.decode}
)
"""Decoders by the fixed OIDs of built-in types: `bytea`, `bigint`, `text`."""


class Transaction(NamedTuple):
    """The rows that one transaction has inserted, in order."""

    end: int
    """The LSN after its commit."""
    rows: list[dict[str, Any]]
    """Column names to values."""


class Decoder:
    """Assembles messages into transactions; one for each connection."""

    def __init__(self) -> None:
        self._tables: dict[int, list[tuple[str, int]]] = {}
        self._rows: list[dict[str, Any]] | None = None

    @property
    def between_transactions(self) -> bool:
        """Whether no transaction is incomplete."""
        return self._rows is None

    def decode(self, message: bytes) -> Transaction | None:
        """Decode the next message; returns a transaction if it completes one.

        Raises:
            EventsError: it is truncated or unexpected.
        """
        try:
            return self._decode(_Bytes(message))
        except (struct.error, ValueError, IndexError) as error:
            raise EventsError(f"pgoutput: a message that can't be read: {error}") from error

    def _decode(self, message: "_Bytes") -> Transaction | None:
        match message.take(1):
            case b"B" if self._rows is None:
                self._rows = []
            case b"R":
                self._relation(message)
            case b"I" if self._rows is not None:
                self._rows.append(self._row(message))
            case b"C" if self._rows is not None:
                _, _, end, _ = message.unpack(_COMMIT)
                rows, self._rows = self._rows, None
                return Transaction(end, rows)
            case b"O" | b"Y":  # origins and types: not needed here
                pass
            case kind:
                raise ValueError(f"kind {kind!r} at this place")
        return None

    def _relation(self, message: "_Bytes") -> None:
        (table,) = message.unpack(_OID)
        for _ in ("schema", "name"):
            message.text()
        message.take(1)  # the replica identity
        columns: list[tuple[str, int]] = []
        for _ in range(*message.unpack(_COUNT)):
            message.take(1)
            name = message.text()
            kind, _ = message.unpack(_COLUMN)
            columns.append((name, kind))
        self._tables[table] = columns

    def _row(self, message: "_Bytes") -> dict[str, Any]:
        (table,) = message.unpack(_OID)
        if table not in self._tables:
            raise ValueError(f"a row of table {table}, of which nothing was told")
        if (kind := message.take(1)) != b"N":
            raise ValueError(f"kind {kind!r} in place of a new row")
        (number,) = message.unpack(_COUNT)
        columns = self._tables[table]
        if number != len(columns):
            raise ValueError(f"{number} values for {len(columns)} columns")
        return {name: self._value(message, kind) for name, kind in columns}

    def _value(self, message: "_Bytes", kind: int) -> Any:
        match message.take(1):
            case b"n":
                return None
            case b"b":
                (length,) = message.unpack(_LENGTH)
                value = message.take(length)
                # A column of another type is none of ours: a user has added it.
                return _VALUES[kind](value) if kind in _VALUES else None
            case form:
                raise ValueError(f"a value in the form {form!r}")


class _Bytes:
    """A cursor over a message."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    def take(self, number: int) -> bytes:
        end = self._at + number
        if number < 0 or end > len(self._message):
            raise ValueError(f"{number} bytes at {self._at} of {len(self._message)}")
        taken = self._message[self._at : end]
        self._at = end
        return taken

    def text(self) -> str:
        end = self._message.index(b"\0", self._at)
        taken = self._message[self._at : end].decode()
        self._at = end + 1
        return taken

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))
