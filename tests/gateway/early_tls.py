"""A client of TLS over TCP that sends early data, by OpenSSL itself: Python's `ssl` can't."""

import ctypes
import ctypes.util
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest

PATIENCE: Final = 20.0

_ZERO_RETURN: Final = 6
_SET_HOSTNAME: Final = 55
_HOST_NAME: Final = 0
_EARLY_DATA_ACCEPTED: Final = 2
_BOTH_SHUT_DOWN: Final = 3

_POINTER: Final = ctypes.c_void_p
_CALLS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "TLS_client_method": (_POINTER, []),
    "SSL_CTX_new": (_POINTER, [_POINTER]),
    "SSL_CTX_free": (None, [_POINTER]),
    "SSL_new": (_POINTER, [_POINTER]),
    "SSL_free": (None, [_POINTER]),
    "SSL_set_shutdown": (None, [_POINTER, ctypes.c_int]),
    "SSL_set_bio": (None, [_POINTER, _POINTER, _POINTER]),
    "SSL_set_connect_state": (None, [_POINTER]),
    "SSL_set_alpn_protos": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_uint]),
    "SSL_ctrl": (ctypes.c_long, [_POINTER, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]),
    "SSL_set_session": (ctypes.c_int, [_POINTER, _POINTER]),
    "SSL_get1_session": (_POINTER, [_POINTER]),
    "SSL_session_reused": (ctypes.c_int, [_POINTER]),
    "SSL_SESSION_get_max_early_data": (ctypes.c_uint32, [_POINTER]),
    "SSL_SESSION_set_max_early_data": (ctypes.c_int, [_POINTER, ctypes.c_uint32]),
    "SSL_SESSION_is_resumable": (ctypes.c_int, [_POINTER]),
    "SSL_SESSION_free": (None, [_POINTER]),
    "SSL_write_early_data": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)],
    ),
    "SSL_get_early_data_status": (ctypes.c_int, [_POINTER]),
    "SSL_do_handshake": (ctypes.c_int, [_POINTER]),
    "SSL_read": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int]),
    "SSL_write": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int]),
    "SSL_get_error": (ctypes.c_int, [_POINTER, ctypes.c_int]),
    "ERR_clear_error": (None, []),
    "BIO_s_mem": (_POINTER, []),
    "BIO_new": (_POINTER, [_POINTER]),
    "BIO_read": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int]),
    "BIO_write": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int]),
    "BIO_ctrl_pending": (ctypes.c_size_t, [_POINTER]),
}


def _library() -> Any:
    """OpenSSL 3; the test is skipped on a machine without."""
    name = ctypes.util.find_library("ssl")
    library: Any = ctypes.CDLL(name) if name else None
    if library is None or not hasattr(library, "SSL_write_early_data"):
        pytest.skip("this machine has no libssl that sends early data")
    for call, (result, arguments) in _CALLS.items():
        function = getattr(library, call)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """What a client that was here before comes back with."""

    def __init__(self, library: Any, address: int) -> None:
        self.library, self.address = library, address

    @property
    def max_early_data(self) -> int:
        """Bytes, 0 if the server takes none."""
        return self.library.SSL_SESSION_get_max_early_data(self.address)

    def exceed(self, size: int) -> None:
        """Let a client send as many bytes, whatever the server said."""
        assert self.library.SSL_SESSION_set_max_early_data(self.address, size) == 1

    def __del__(self) -> None:
        self.library.SSL_SESSION_free(self.address)


class TlsClient:
    """One connection, of which a test decides what is sent, and when it listens."""

    def __init__(
        self,
        port: int,
        session: Session | None = None,
        protocols: tuple[str, ...] = ("http/1.1",),
    ) -> None:
        self.library = library = _library()
        self.context = library.SSL_CTX_new(library.TLS_client_method())
        self.ssl = library.SSL_new(self.context)
        self.incoming = library.BIO_new(library.BIO_s_mem())
        self.outgoing = library.BIO_new(library.BIO_s_mem())
        library.SSL_set_bio(self.ssl, self.incoming, self.outgoing)
        library.SSL_set_connect_state(self.ssl)
        library.SSL_ctrl(self.ssl, _SET_HOSTNAME, _HOST_NAME, b"localhost")
        offered = b"".join(bytes([len(each)]) + each.encode() for each in protocols)
        assert library.SSL_set_alpn_protos(self.ssl, offered, len(offered)) == 0
        if session is not None:
            assert library.SSL_set_session(self.ssl, session.address) == 1
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.read = b""
        self.ended: str | None = None
        """How the server has ended its side, once it has: by the word of TLS, or `cut`."""
        self.is_complete = False
        """Whether this side is through with the handshake; the server is when it hears so."""

    def early(self, data: bytes) -> None:
        """To be sent with the first flight."""
        written = ctypes.c_size_t()
        done = self.library.SSL_write_early_data(self.ssl, data, len(data), ctypes.byref(written))
        assert (done, written.value) == (1, len(data))

    def write(self, data: bytes) -> None:
        assert self.library.SSL_write(self.ssl, data, len(data)) == len(data)

    def flight(self) -> bytes:
        """The bytes that are to be sent now."""
        length = self.library.BIO_ctrl_pending(self.outgoing)
        room = ctypes.create_string_buffer(max(length, 1))
        read = self.library.BIO_read(self.outgoing, room, length) if length else 0
        return room.raw[:read]

    def send(self) -> bytes:
        sent = self.flight()
        self.socket.sendall(sent)
        return sent

    def listen_until(self, condition: Callable[[], object], *, says: bool = True) -> None:
        """Take what comes, and say what that asks for, unless this is only to listen."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._look()
            if says and self.ended is None:
                with suppress(ConnectionError):  # what is read next tells of the end
                    self.send()
            if condition():
                return
            assert self.ended is None, f"the connection ended: {self.ended}"
            assert time.monotonic() < deadline, "what was waited for did not happen"
            self.socket.settimeout(0.05)
            try:
                received = self.socket.recv(65_536)
            except TimeoutError:
                continue
            except ConnectionError:
                received = b""
            if not received:
                self.ended = "cut"
            self.library.BIO_write(self.incoming, received, len(received))

    def _look(self) -> None:
        self.library.ERR_clear_error()
        if not self.is_complete:
            self.is_complete = self.library.SSL_do_handshake(self.ssl) == 1
        room = ctypes.create_string_buffer(16_384)
        while self.is_complete:
            read = self.library.SSL_read(self.ssl, room, len(room))
            if read > 0:
                self.read += room.raw[:read]
                continue
            if self.library.SSL_get_error(self.ssl, read) == _ZERO_RETURN:
                self.ended = "ended"
            return

    @property
    def is_early_data_accepted(self) -> bool:
        return self.library.SSL_get_early_data_status(self.ssl) == _EARLY_DATA_ACCEPTED

    @property
    def is_resumed(self) -> bool:
        return self.library.SSL_session_reused(self.ssl) == 1

    def session(self) -> Session | None:
        """What the server has given to come back with, if it has."""
        session = Session(self.library, self.library.SSL_get1_session(self.ssl))
        return session if self.library.SSL_SESSION_is_resumable(session.address) else None

    def close(self) -> None:
        self.socket.close()

    def __del__(self) -> None:
        # A connection that breaks off takes its session along.
        self.library.SSL_set_shutdown(self.ssl, _BOTH_SHUT_DOWN)
        self.library.SSL_free(self.ssl)
        self.library.SSL_CTX_free(self.context)
