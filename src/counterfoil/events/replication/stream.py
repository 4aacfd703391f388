"""Streams transactions from a replication slot of PostgreSQL, in commit order.

psycopg doesn't support replication, but its libpq wrapper has all that the protocol needs: a
replication connection, COPY in both directions, and two kinds of messages each way. Reading a slot
by SQL functions would decode the WAL again from the slot's restart point on every call.
Source: "Streaming Replication Protocol" in PostgreSQL's documentation.
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from counterfoil.events.errors import EventsError, StoreUnavailable
from counterfoil.events.replication.pgoutput import Decoder, Transaction

CONNECT_SECONDS: Final = 3
_DATA: Final = struct.Struct("!cqqq")
_KEEPALIVE: Final = struct.Struct("!cqqB")
_STATUS: Final = struct.Struct("!cqqqqB")
_IN_USE: Final = b"55006"


class SlotInUse(StoreUnavailable):
    """Another connection reads the slot."""


class ReplicationStream:
    """Streams the slot `slot` with the publication of the same name, from `start` (an LSN).

    Raises:
        SlotInUse: another connection reads it.
        StoreUnavailable: the server can't be reached.
        EventsError: the server refuses: the slot doesn't exist, or its WAL is gone.
    """

    def __init__(self, uri: str, password: str | None, *, slot: str, start: int) -> None:
        import psycopg  # noqa: PLC0415 - an extra
        from psycopg import pq  # noqa: PLC0415
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415

        self._slot = slot
        self._decoder = Decoder()
        self._told = 0
        self.heard = start
        """The LSN up to which all commits have been received."""
        with self._available():
            self._connection = psycopg.connect(
                make_conninfo(uri, replication="database", client_encoding="utf8"),
                password=password,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name=slot,
            )
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {start >> 32:X}/{start & 0xFFFFFFFF:X} '
            f"(proto_version '1', publication_names '\"{slot}\"', binary 'true')"
        )
        result = self._connection.pgconn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            state = result.error_field(pq.DiagnosticField.SQLSTATE)
            said = result.error_message.decode(errors="replace").strip()
            self.close()
            kind = SlotInUse if state == _IN_USE else StoreUnavailable if not state else EventsError
            raise kind(f"PostgreSQL: {said}")

    def receive(self, limit: int, *, ask: bool = False) -> list[Transaction]:
        """The transactions that have arrived, until they have `limit` rows; doesn't wait.

        `ask` requests the server's position at once; otherwise it sends it from time to time.

        Raises:
            StoreUnavailable: the connection is lost, or was terminated for another reader.
            EventsError: an unexpected message arrived.
        """
        found: list[Transaction] = []
        rows = 0
        if ask:
            self._tell(self._told, ask=True)
        while rows < limit and (message := self._next()) is not None:
            match message[:1]:
                case b"w":
                    transaction = self._decoder.decode(message[_DATA.size :])
                    if transaction is not None:
                        self.heard = max(self.heard, transaction.end)
                        rows += len(transaction.rows)
                        found.append(transaction)
                case b"k":
                    _, end, _, wanted = _KEEPALIVE.unpack(message)
                    if self._decoder.between_transactions:
                        self.heard = max(self.heard, end)
                    if wanted:
                        self._tell(self._told)
                case kind:
                    raise EventsError(f"PostgreSQL: a message of kind {kind!r} in a stream")
        return found

    def confirm(self, place: int) -> None:
        """Confirm everything before `place` (an LSN), so that the server may remove it.

        Raises:
            StoreUnavailable: the connection is lost.
        """
        if place > self._told:
            self._tell(place)

    def close(self) -> None:
        """End the stream; another one may begin."""
        self._connection.close()

    def _next(self) -> bytes | None:
        connection = self._connection.pgconn
        with self._available():
            length, message = connection.get_copy_data(1)
            if length == 0:
                connection.consume_input()
                length, message = connection.get_copy_data(1)
            if length < 0:
                result = connection.get_result()
                said = b"" if result is None else result.error_message
                raise StoreUnavailable(
                    f"PostgreSQL: slot {self._slot}: {said.decode(errors='replace').strip()}"
                )
        return bytes(message) if length else None

    def _tell(self, place: int, *, ask: bool = False) -> None:
        status = _STATUS.pack(b"r", place, place, place, 0, ask)
        with self._available():
            self._connection.pgconn.put_copy_data(status)
            self._connection.pgconn.flush()
        self._told = place

    @contextmanager
    def _available(self) -> Generator[None, None, None]:
        import psycopg  # noqa: PLC0415 - an extra

        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreUnavailable(f"PostgreSQL: {str(error).strip()}") from error
