"""Checks what a broker's listener offers, before authentication.

A Kafka client that uses another protocol than the listener is disconnected without an error,
retries, and finally reports that no broker answered. So this connects once, in small steps, and
names the first one that fails: the files, TLS, the certificate, the mechanism. It implements the
necessary part of Kafka's protocol: ApiVersions (version 3), which also returns features that
librdkafka doesn't ask for, and SaslHandshake (version 1), which returns the mechanisms. No password
is sent.

A broker's answer is final. A broker that hangs or disconnects may be failing or shutting down, so
the others are tried before the result is that none answers.
"""

import socket
import ssl
import struct
from contextlib import closing
from typing import Final, NamedTuple

from counterfoil.engines.checks.finding import Finding, Level
from counterfoil.kafka_access import KafkaAccess, Protocol

SECONDS: Final = 5.0
LONGEST: Final = 1 << 20
"""Bytes of an answer: a longer one is not Kafka's."""
_API_VERSIONS: Final = 18
_SASL_HANDSHAKE: Final = 17
_UNSUPPORTED_MECHANISM: Final = 33
_ILLEGAL_STATE: Final = 34
"""The error of a listener without SASL in response to a handshake."""
_NAMES: Final = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


class Features(NamedTuple):
    """The highest level of each feature that a broker supports, and the finalized ones."""

    supported: dict[str, int]
    finalised: dict[str, int]


class Refused(Exception):
    """The listener and the configuration don't match; `finding` says why."""

    def __init__(self, setting: str, found: str, needed: str, remedy: str) -> None:
        super().__init__(found)
        self.finding = Finding("kafka", Level.BREAKS, setting, found, needed, remedy)


class _Unanswered(Exception):
    """One broker did not answer; others may."""

    def __init__(self, server: str, error: Exception) -> None:
        closed = isinstance(error, EOFError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
        super().__init__(f"{server}: {'it closed the connection' if closed else error}")


def greet(access: KafkaAccess) -> Features:
    """Check the first broker that answers.

    Raises:
        Refused: it refuses this client; or no broker answers.
    """
    context = _context(access) if access.tls else None
    errors: list[str] = []
    for server in access.servers.split(","):
        try:
            return _greet(access, server, context)
        except _Unanswered as error:
            errors.append(str(error))
    raise silent("; ".join(errors), "start it, or correct [addresses] kafka")


def _greet(access: KafkaAccess, server: str, context: ssl.SSLContext | None) -> Features:
    host, _, port = server.strip().rpartition(":")
    try:
        raw = socket.create_connection((host, int(port)), SECONDS)
    except (OSError, ValueError) as error:
        raise _Unanswered(server, error) from error
    with closing(raw):
        if context is None:
            return _ask(_Listener(access, server, raw))
        with closing(_wrapped(access, server, raw, context, host)) as wrapped:
            return _ask(_Listener(access, server, wrapped))


def _context(access: KafkaAccess) -> ssl.SSLContext:
    try:
        return access.context()
    except OSError as error:
        raise unusable(access, str(error)) from error


def unusable(access: KafkaAccess, error: str) -> Refused:
    """A client can't be created from the configuration, usually because of its files."""
    files = ", ".join(str(each) for each in (access.ca, access.certificate, access.key) if each)
    return Refused(
        "certificates",
        f"not to be used: {files or 'none are set'}: {error}",
        "PEM files: an authority, and a certificate with the key that belongs to it",
        "correct ca, certificate and key of [kafka]; the password of a key that has one comes "
        "from KAFKA_KEY_PASSWORD",
    )


def _wrapped(
    access: KafkaAccess, server: str, raw: socket.socket, context: ssl.SSLContext, host: str
) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(raw, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message
        if error.verify_code in _NAMES:
            raise Refused(
                "certificate",
                f"{server}: {said}",
                f"a certificate with the name {host}",
                "use a name that the certificate has, in [addresses] kafka and in the brokers' "
                "advertised.listeners",
            ) from error
        raise Refused(
            "certificate",
            f"{server}: {said}",
            f"one that {access.ca or 'an authority of this system'} vouches for",
            "set ca of [kafka] to the certificate of the authority that signed the brokers'",
        ) from error
    except (ssl.SSLEOFError, ConnectionError) as error:
        if _speaks_openly(access, server):
            raise _other_protocol(access, server, "no TLS", tls=False) from error
        raise _Unanswered(server, error) from error
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            raise _other_protocol(access, server, "no TLS", tls=False) from error
        raise _client_refused(access, server, error) from error
    except OSError as error:  # usually a timeout
        raise _Unanswered(server, error) from error


class _Listener:
    """One connection, with one request at a time."""

    def __init__(self, access: KafkaAccess, server: str, connection: socket.socket) -> None:
        self.access = access
        self.server = server
        self._connection = connection
        self._answers = connection.makefile("rb")

    def ask(self, key: int, version: int, body: bytes) -> bytes:
        """The body of the answer to a request, after its correlation id.

        Raises:
            OSError: there is none; EOFError if the connection was closed.
        """
        request = struct.pack(">hhih", key, version, 1, -1) + body
        self._connection.sendall(struct.pack(">i", len(request)) + request)
        head = self._answers.read(4)
        if len(head) < 4:
            raise EOFError
        (length,) = struct.unpack(">i", head)
        if not 4 <= length <= LONGEST:
            raise OSError("what answers is not Kafka")
        return self._answers.read(length)[4:]


def _ask(listener: _Listener) -> Features:
    access, server = listener.access, listener.server
    try:
        features = _features(listener)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise _Unanswered(server, error) from error
    except ssl.SSLError as error:
        raise _client_refused(access, server, error) from error
    except (EOFError, OSError) as error:
        if not access.tls and _speaks_tls(server):
            raise _other_protocol(access, server, "TLS", tls=True) from error
        raise _Unanswered(server, error) from error
    mechanism = access.mechanism.encode()
    body = struct.pack(">h", len(mechanism)) + mechanism
    try:
        error, mechanisms = _handshake(listener.ask(_SASL_HANDSHAKE, 1, body))
    except (EOFError, OSError, struct.error) as found:
        if access.sasl:
            raise _Unanswered(server, found) from found
        return features  # SASL is not used, so its absence doesn't matter
    asks = error != _ILLEGAL_STATE
    if asks != access.sasl:
        says = f"SASL ({', '.join(mechanisms)})" if asks else "no SASL"
        raise _other_protocol(access, server, says, sasl=asks)
    if error == _UNSUPPORTED_MECHANISM:
        raise Refused(
            "mechanism",
            f"{access.mechanism}, which {server} does not have",
            f"one of {', '.join(mechanisms) or 'none'}",
            "set mechanism of [kafka], or sasl.enabled.mechanisms of the brokers",
        )
    return features


def _features(listener: _Listener) -> Features:
    software = b"\x0ccounterfoil\x021\x00"  # name, version, no tagged fields
    return _Compact(listener.ask(_API_VERSIONS, 3, b"\x00" + software)).features()


def _handshake(answer: bytes) -> tuple[int, list[str]]:
    error, number = struct.unpack_from(">hi", answer)
    at, mechanisms = 6, list[str]()
    for _ in range(number):
        (length,) = struct.unpack_from(">h", answer, at)
        mechanisms.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return error, mechanisms


def _speaks_tls(server: str) -> bool:
    """Whether a TLS handshake succeeds; without verification, since no data is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = server.strip().rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _speaks_openly(access: KafkaAccess, server: str) -> bool:
    """Whether Kafka answers without TLS; such brokers disconnect TLS clients without an error."""
    host, _, port = server.strip().rpartition(":")
    try:
        with socket.create_connection((host, int(port)), SECONDS) as raw:
            _features(_Listener(access, server, raw))
            return True
    except (EOFError, OSError):
        return False


def _other_protocol(
    access: KafkaAccess,
    server: str,
    says: str,
    *,
    tls: bool | None = None,
    sasl: bool | None = None,
) -> Refused:
    fitting: Protocol
    match (access.tls if tls is None else tls, access.sasl if sasl is None else sasl):
        case True, True:
            fitting = "SASL_SSL"
        case True, False:
            fitting = "SSL"
        case False, True:
            fitting = "SASL_PLAINTEXT"
        case _:
            fitting = "PLAINTEXT"
    return Refused(
        "protocol",
        f"{access.protocol}, and {server} speaks {says}",
        "the same on both sides",
        f"take the port of a listener that speaks {access.protocol}, "
        f'or set protocol = "{fitting}" in [kafka]',
    )


def _client_refused(access: KafkaAccess, server: str, error: ssl.SSLError) -> Refused:
    shown = access.certificate or "without a certificate of its own"
    return Refused(
        "client",
        f"{shown}, and {server} ends TLS: {error.reason or error}",
        "a certificate that the brokers trust",
        "set certificate and key of [kafka] to those of an authority in the brokers' truststore",
    )


def silent(found: str, remedy: str) -> Refused:
    """There is no usable answer."""
    return Refused("address", found, "an answer", remedy)


class _Compact:
    """Reads Kafka's compact encoding (KIP-482)."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def features(self) -> Features:
        (error,) = struct.unpack(">h", self._take(2))
        if error:
            raise OSError(f"the broker refused ApiVersions with error {error}")
        for _ in range(self._varint() - 1):
            self._take(6)  # key, oldest and newest version
            self._skip_tags()
        self._take(4)  # throttle time
        supported: dict[str, int] = {}
        finalised: dict[str, int] = {}
        for _ in range(self._varint()):
            tag, length = self._varint(), self._varint()
            end = self._at + length
            if tag == 0:
                supported = self._levels(">2xh")  # oldest, newest
            elif tag == 2:
                finalised = self._levels(">h2x")  # newest, oldest
            self._at = end
        return Features(supported, finalised)

    def _levels(self, layout: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for _ in range(self._varint() - 1):
            name = self._take(self._varint() - 1).decode()
            (found[name],) = struct.unpack(layout, self._take(4))
            self._skip_tags()
        return found

    def _skip_tags(self) -> None:
        for _ in range(self._varint()):
            self._varint()
            self._take(self._varint())

    def _varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _take(self, number: int) -> bytes:
        taken = self._content[self._at : self._at + number]
        if len(taken) < number:
            raise EOFError
        self._at += number
        return taken
