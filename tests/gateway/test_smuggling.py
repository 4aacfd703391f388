"""Requests that two readers might take differently, sent to the gateway of real servers.

Each is either refused, or the gateway and the server agree that it is one request. What it hides
never reaches the server as a request of its own, and the next client gets the answer to its own.
"""

import contextlib
import getpass
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h2.config
import h2.connection
import pytest
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: h\r\n\r\n"
IN_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
ENDED = b"0\r\n\r\n" + HIDDEN


def post(headers: bytes, body: bytes) -> bytes:
    return b"POST /front HTTP/1.1\r\nhost: h\r\n" + headers + b"\r\n" + body


def chunks(body: bytes, headers: bytes = b"") -> bytes:
    return post(b"transfer-encoding: chunked\r\n" + headers, body)


LENGTH = b"content-length: %d\r\n" % len(ENDED)
BOTH = LENGTH + b"transfer-encoding: chunked\r\n"

REQUESTS = {
    "length before chunked": post(BOTH, ENDED),
    "chunked before length": post(b"transfer-encoding: chunked\r\n" + LENGTH, ENDED),
    "chunked with a shorter length": post(
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n", IN_CHUNK
    ),
    "two lengths": post(b"content-length: 0\r\n" + LENGTH, ENDED),
    "two lengths in a list": post(b"content-length: 0, %d\r\n" % len(ENDED), ENDED),
    "the same length twice": post(LENGTH * 2, ENDED),
    "length with a sign": post(b"content-length: +%d\r\n" % len(ENDED), ENDED),
    "length in hexadecimal": post(b"content-length: 0x%x\r\n" % len(ENDED), ENDED),
    "length below zero": post(b"content-length: -1\r\n", ENDED),
    "length with a space within": post(b"content-length: 0 %d\r\n" % len(ENDED), ENDED),
    "length without a value": post(b"content-length:\r\n", HIDDEN),
    "length beyond 64 bits": post(b"content-length: 18446744073709551616\r\n", HIDDEN),
    "another coding before chunked": post(b"transfer-encoding: gzip, chunked\r\n", ENDED),
    "another coding after chunked": post(LENGTH + b"transfer-encoding: chunked, x\r\n", ENDED),
    "chunked twice": post(LENGTH + b"transfer-encoding: chunked\r\n" * 2, ENDED),
    "chunked, then identity": post(
        LENGTH + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", ENDED
    ),
    "identity, then chunked": post(
        LENGTH + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", ENDED
    ),
    "a coding that looks like chunked": post(LENGTH + b"transfer-encoding: xchunked\r\n", ENDED),
    "chunked in quotes": post(LENGTH + b'transfer-encoding: "chunked"\r\n', ENDED),
    "chunked after a vertical tab": post(LENGTH + b"transfer-encoding: \x0bchunked\r\n", ENDED),
    "chunked in HTTP/1.0": post(BOTH, ENDED).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "a space before the colon": post(LENGTH + b"transfer-encoding : chunked\r\n", ENDED),
    "a tab before the colon": post(LENGTH + b"transfer-encoding\t: chunked\r\n", ENDED),
    "a folded header": post(LENGTH + b"x: y\r\n transfer-encoding: chunked\r\n", ENDED),
    "a folded coding": post(LENGTH + b"transfer-encoding:\r\n chunked\r\n", ENDED),
    "a space before the first header": post(b" x: y\r\n" + LENGTH, ENDED),
    "a bare line feed between headers": post(
        b"content-length: 0\r\nx: y\ntransfer-encoding: chunked\r\n", IN_CHUNK
    ),
    "a bare carriage return between headers": post(
        LENGTH + b"x: y\rtransfer-encoding: chunked\r\n", ENDED
    ),
    "a bare carriage return in a name": post(LENGTH + b"transfer\r-encoding: chunked\r\n", ENDED),
    "a zero byte in a value": post(LENGTH + b"x: y\x00z\r\n", ENDED),
    "a zero byte in a name": post(LENGTH + b"x\x00y: z\r\n", ENDED),
    "a header without a colon": post(LENGTH + b"transfer-encoding chunked\r\n", ENDED),
    "an underscore for a dash": post(LENGTH + b"transfer_encoding: chunked\r\n", ENDED),
    "a length that its connection names": post(b"connection: content-length\r\n" + LENGTH, ENDED),
    "an extension of a chunk": chunks(b"5;a=b\r\nhello\r\n0;c\r\n\r\n"),
    "a line feed in an extension": chunks(b"5;\nhello\r\n0\r\n\r\n" + HIDDEN),
    "a carriage return in an extension": chunks(b"5;\rhello\r\n0\r\n\r\n" + HIDDEN),
    "a chunk's size that ends in a line feed": chunks(b"5\nhello\r\n" + ENDED),
    "a chunk that ends in a line feed": chunks(b"5\r\nhello\n" + ENDED),
    "a chunk without an end": chunks(b"5\r\nhello" + ENDED),
    "a chunk longer than its size": chunks(b"5\r\nhello world\r\n" + ENDED),
    "a chunk's size with a sign": chunks(b"+0\r\n\r\n" + HIDDEN),
    "a chunk's size below zero": chunks(b"-1\r\n\r\n" + HIDDEN),
    "a chunk's size with a prefix": chunks(b"0x0\r\n\r\n" + HIDDEN),
    "a chunk's size with an underscore": chunks(b"0_0\r\n\r\n" + HIDDEN),
    "a chunk's size beyond 64 bits": chunks(b"10000000000000000\r\n" + ENDED),
    "a space before a chunk's size": chunks(b" 0\r\n\r\n" + HIDDEN),
    "a length in the trailers": chunks(b"0\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN)),
    "a request in the trailers": chunks(b"0\r\n" + HIDDEN),
    "a body of GET": post(LENGTH, ENDED).replace(b"POST", b"GET", 1),
    "the absolute form": b"GET http://other/front HTTP/1.1\r\nhost: h\r\n\r\n",
    "the absolute form with a user": b"GET http://h@other/front HTTP/1.1\r\nhost: h\r\n\r\n",
    "two hosts": b"GET /front HTTP/1.1\r\nhost: h\r\nhost: other\r\n\r\n",
    "no host": b"GET /front HTTP/1.1\r\n\r\n",
    "a request within the target": b"GET /front%20HTTP/1.1%0d%0a%0d%0aGET%20/hidden HTTP/1.1\r\n"
    b"host: h\r\n\r\n",
    "a zero byte in the target": b"GET /front\x00/hidden HTTP/1.1\r\nhost: h\r\n\r\n",
    "an encoded zero byte": b"GET /front%00 HTTP/1.1\r\nhost: h\r\n\r\n",
    "a target that climbs": b"GET /front/..%2fhidden HTTP/1.1\r\nhost: h\r\n\r\n",
    "a target with a space": b"GET /front /hidden HTTP/1.1\r\nhost: h\r\n\r\n",
    "two spaces before the version": b"GET /front  HTTP/1.1\r\nhost: h\r\n\r\n",
    "a version that is none": b"GET /front HTTP/1.10\r\nhost: h\r\n\r\n",
    "HTTP/0.9": b"GET /front\r\n\r\n",
    "an upgrade to HTTP/2 in plain text": b"GET /front HTTP/1.1\r\nhost: h\r\nupgrade: h2c\r\n"
    b"connection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
}
AGREED = {
    "length before chunked",
    "chunked before length",
    "chunked with a shorter length",
    "the same length twice",
    "a bare line feed between headers",
    "an underscore for a dash",
    "a length that its connection names",
    "an extension of a chunk",
    "a length in the trailers",
    "a body of GET",
    "the absolute form",
    "the absolute form with a user",
    "a request within the target",
    "an upgrade to HTTP/2 in plain text",
}
UNKNOWN_CODING = {"another coding before chunked", "chunked twice", "identity, then chunked"}

HIDING = b"x\r\n\r\n" + HIDDEN
STREAMS: dict[str, tuple[list[tuple[bytes, bytes]], bytes]] = {
    "a transfer coding": ([(b"transfer-encoding", b"chunked")], ENDED),
    "a length that is too short": ([(b"content-length", b"0")], HIDDEN),
    "a length that is too long": ([(b"content-length", b"1000")], HIDDEN),
    "two lengths": ([(b"content-length", b"0"), (b"content-length", b"35")], HIDDEN),
    "a header of the connection": ([(b"connection", b"content-length")], HIDDEN),
    "a line in a value": ([(b"x", HIDING)], b""),
    "a line in a name": ([(b"x: y\r\n" + HIDDEN, b"z")], b""),
    "a colon in a name": ([(b"transfer-encoding: chunked", b"z")], ENDED),
    "a line in the method": ([(b":method", b"GET " + HIDING)], b""),
    "a space in the method": ([(b":method", b"GET /hidden HTTP/1.1")], b""),
    "a line in the path": ([(b":path", b"/front " + HIDING)], b""),
    "a space in the path": ([(b":path", b"/hidden HTTP/1.1")], b""),
    "a line in the authority": ([(b":authority", b"h" + HIDING)], b""),
    "a line in the scheme": ([(b":scheme", b"http" + HIDING)], b""),
    "a zero byte in a value": ([(b"x", b"y\x00z")], b""),
    "a target that climbs": ([(b":path", b"/front/../hidden")], b""),
}


@dataclass
class Front:
    """A gateway of one real server, and what that server took for requests."""

    plane: DataPlane
    record: Path
    numbers: Iterator[int]

    def connect(self) -> socket.socket:
        host, _, port = self.plane.listen.partition(":")
        client = socket.create_connection((host, int(port)), timeout=20)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def requests(self) -> list[bytes]:
        """Targets that the server got since the last time, after one more that is recognised."""
        last = b"/last-%d" % next(self.numbers)
        with self.connect() as client:
            client.sendall(b"GET %s HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n" % last)
            answer = everything(client)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert answer.endswith(last), "the answer to somebody else's request"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            lines = self.record.read_bytes().split(b"\n")
            if last in lines:
                self.record.write_bytes(b"")
                return lines[: lines.index(last)]
            time.sleep(0.01)
        raise AssertionError(f"{last!r} is not on record")


def everything(client: socket.socket, wait: float = 20) -> bytes:
    """What comes until the end of the connection, or until nothing more comes."""
    client.settimeout(wait)
    read = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := client.recv(65_536):
            read += part
            client.settimeout(0.05)
    return read


def granian(address: str, record: Path) -> list[str]:
    script = Path(__file__).with_name("recording.py")
    return [sys.executable, str(script), address, str(record)]


def nginx(address: str, record: Path) -> list[str]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    home = record.parent
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {home / kind};" for kind in kinds)
    (home / "nginx.conf").write_text(f"""{user} daemon off; worker_processes 1;
        pid {home}/nginx.pid; events {{ }}
        http {{ {paths} log_format target '$request_uri'; access_log {record} target;
          server {{ listen {address}; default_type text/plain; underscores_in_headers on;
            location / {{ return 200 $request_uri; }} }} }}""")
    return ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"]


@pytest.fixture(scope="module", params=[granian, nginx], ids=["granian", "nginx"])
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    command: Callable[[str, Path], list[str]] = request.param
    record = tmp_path_factory.mktemp("server") / "requests"
    record.touch()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(command(address, record))
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=(Route(path="/*", methods=("GET", "POST"), service="s", identity=False),),
            services={"s": Upstream(attempts=1)},
        ),
        access_log=None,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", address)])
    try:
        host, _, port = address.partition(":")
        for _ in range(1000):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=20).close()
                break
            time.sleep(0.02)
        yield Front(plane, record, itertools.count())
    finally:
        plane.drain(5.0)
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_request_hides_reaches_no_server(front: Front, name: str) -> None:
    with front.connect() as client:
        client.sendall(REQUESTS[name])
        answer = everything(client, 2)
    statuses = [int(line.split()[1]) for line in answer.split(b"\r\n") if line[:7] == b"HTTP/1."]
    reached = [target for target in front.requests() if target]
    if name in AGREED:
        assert statuses == [200]
        assert reached in ([b"/front"], [REQUESTS[name].split()[1]])
    else:
        assert statuses == [501 if name in UNKNOWN_CODING else 400]
        assert reached in ([], [b"/front"]), "at most the beginning of one whose body broke"


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_hides_reaches_no_server(front: Front, name: str) -> None:
    headers, body = STREAMS[name]
    pseudo = {b":method": b"POST", b":path": b"/front", b":scheme": b"http", b":authority": b"h"}
    pseudo |= {name: value for name, value in headers if name in pseudo}
    given = [(name, value) for name, value in headers if name not in pseudo]
    careless = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(careless)
    connection.initiate_connection()
    connection.send_headers(1, [*pseudo.items(), *given], end_stream=not body)
    if body:
        connection.send_data(1, body, end_stream=True)
    with front.connect() as client:
        client.sendall(connection.data_to_send())
        answer = everything(client, 2)
    events = connection.receive_data(answer)
    refused = any(isinstance(event, (StreamReset, ConnectionTerminated)) for event in events)
    statuses = [
        dict(event.headers)[b":status"] for event in events if isinstance(event, ResponseReceived)
    ]
    assert refused or statuses == [b"400"]
    assert [target for target in front.requests() if target] in ([], [b"/front"])
