"""Pages that call a service of gRPC: bytes as PROTOCOL-WEB.md has them, and a real service."""

import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator

import httpx2
import pytest
from grpc_service import LARGE, SERVICE
from test_grpc import instance
from upstream import Asked, serving, sized

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.cors import Cors
from counterfoil.gateway.credentials import ApiKey
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

ORIGIN = "https://shop.example"
WEB = "application/grpc-web"
"""What grpcio's servers answer with, whatever follows it in the request."""
BINARY = f"{WEB}+proto"
TEXT = "application/grpc-web-text"
API_KEY = ApiKey(sha256="0" * 64, tenant="t")


def answer(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(asked.headers["content-type"].encode()))


@pytest.fixture(scope="module")
def plane() -> Iterator[DataPlane]:
    with instance("s-1") as (address, _), serving(answer) as plain:
        open_ = {"methods": ("POST",), "identity": False}
        cors = Cors(origins=(ORIGIN,), headers=("content-type", "x-grpc-web"))
        routes = (
            Route(path=f"/{SERVICE}/*", service="s", grpc_web=True, cors=cors, **open_),  # type: ignore[arg-type]
            Route(path="/away", service="away", grpc_web=True, **open_),  # type: ignore[arg-type]
            Route(path="/asked", methods=("POST",), service="s", grpc_web=True),
            Route(path="/plain", service="plain", grpc_web=True, **open_),  # type: ignore[arg-type]
            Route(path="/off", service="plain", **open_),  # type: ignore[arg-type]
        )
        config = GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=routes,
            request_body_limit=0,
            api_keys={"k": API_KEY},
            services={"s": Upstream(protocol="h2c"), "away": Upstream(protocol="h2c")},
        )
        plane = DataPlane(config, access_log=None, admin_credential="c")
        plane.set_endpoints("s", [("s-1", address)])
        plane.set_endpoints("plain", [("plain-1", plain.address)])
        yield plane
        plane.drain(5.0)


@pytest.fixture(params=[1, 2], ids=["http/1.1", "h2c"])
def client(plane: DataPlane, request: pytest.FixtureRequest) -> Iterator[httpx2.Client]:
    one = request.param == 1
    with httpx2.Client(
        base_url=f"http://{plane.listen}", http1=one, http2=not one, timeout=20
    ) as client:
        yield client


def message(content: bytes) -> bytes:
    """A message in its frame."""
    return b"\0" + len(content).to_bytes(4) + content


def parted(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """The messages of an answer, and its trailers, which must be its last frame."""
    messages: list[bytes] = []
    while body[0] == 0:
        end = 5 + int.from_bytes(body[1:5])
        messages.append(body[5:end])
        body = body[end:]
    assert body[0] == 0x80
    assert int.from_bytes(body[1:5]) == len(body) - 5
    lines = body[5:].decode().split("\r\n")
    assert lines.pop() == ""
    return messages, dict(line.split(": ", 1) for line in lines)


def untangled(text: bytes) -> bytes:
    """Base64 in parts, each of which may be padded."""
    decoded, part = b"", b""
    for start in range(0, len(text), 4):
        part += text[start : start + 4]
        if part.endswith(b"="):
            decoded, part = decoded + b64decode(part, validate=True), b""
    return decoded + b64decode(part, validate=True)


def call(
    client: httpx2.Client, method: str, body: bytes, kind: str = BINARY, **headers: str
) -> httpx2.Response:
    given = {"content-type": kind, "x-grpc-web": "1", **headers}
    return client.post(f"/{SERVICE}/{method}", content=body, headers=given)


def test_a_call_comes_back_with_its_trailers_in_the_last_frame(client: httpx2.Client) -> None:
    answered = call(client, "echo", message(b"abc"))
    assert (answered.status_code, answered.headers["content-type"]) == (200, WEB)
    assert "content-length" not in answered.headers
    messages, trailers = parted(answered.content)
    assert messages == [b"abc"]
    assert (trailers["grpc-status"], trailers["instance"]) == ("0", "s-1")
    assert call(client, "echo", message(bytes(LARGE))).content[5 : 5 + LARGE] == bytes(LARGE)


def test_messages_of_a_stream_come_before_the_trailers(client: httpx2.Client) -> None:
    messages, trailers = parted(call(client, "count", message(b"100")).content)
    assert messages == [b"%d" % number for number in range(100)]
    assert trailers["grpc-status"] == "0"


def test_in_the_text_form_both_bodies_are_base64(client: httpx2.Client) -> None:
    for size in (0, 1, 2, 3, LARGE):
        answered = call(client, "echo", b64encode(message(b"x" * size)), TEXT)
        assert answered.headers["content-type"] == TEXT
        messages, trailers = parted(untangled(answered.content))
        assert messages == [b"x" * size]
        assert trailers["grpc-status"] == "0"
    in_parts = b"".join(b64encode(message(b"abcd")[at : at + 2]) for at in range(0, 9, 2))
    assert parted(untangled(call(client, "echo", in_parts, TEXT).content))[0] == [b"abcd"]
    mixed = call(client, "echo", message(b"abc"), BINARY, accept=TEXT)
    assert parted(untangled(mixed.content))[0] == [b"abc"]


@pytest.mark.parametrize("body", [b"AAAAAAA", b"A", b"AA!A", b"AAA=AAA", b"=AAA"])
def test_a_body_that_is_no_base64_is_refused(client: httpx2.Client, body: bytes) -> None:
    answered = call(client, "echo", body, TEXT)
    messages, trailers = parted(untangled(answered.content))
    assert (messages, trailers["grpc-status"]) == ([], "3")


def test_an_error_is_in_the_last_frame_whoever_has_it(client: httpx2.Client) -> None:
    answered = call(client, "fail", message(b"not so"))
    messages, trailers = parted(answered.content)
    assert (messages, trailers["grpc-status"], trailers["grpc-message"]) == ([], "9", "not so")
    # It has no message, so that the service says all of it in the head.
    assert answered.headers["reason"] == "a rule"
    assert "grpc-status" not in answered.headers
    headers = {"content-type": BINARY}
    for path, status in (("/away", "14"), ("/asked", "16")):
        refused = client.post(path, content=message(b""), headers=headers)
        assert (refused.status_code, refused.headers["content-type"]) == (
            200,
            "application/grpc-web",
        )
        messages, trailers = parted(refused.content)
        assert (messages, trailers["grpc-status"]) == ([], status)


def test_pages_of_other_origins_ask_and_read(client: httpx2.Client) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-grpc-web",
    }
    assert client.options(f"/{SERVICE}/echo", headers=asked).status_code == 204
    answered = call(client, "echo", message(b"abc"), origin=ORIGIN)
    assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert parted(answered.content)[0] == [b"abc"]


def test_other_calls_answers_and_routes_stay_as_they_are(client: httpx2.Client) -> None:
    for path, kind, got in (
        ("/plain", "application/json", "application/json"),
        ("/plain", "application/grpc-websocket", "application/grpc-websocket"),
        ("/plain", BINARY, "application/grpc+proto"),
        ("/off", BINARY, BINARY),
    ):
        answered = client.post(path, content=b"x", headers={"content-type": kind})
        assert (answered.text, answered.headers.get("content-type")) == (got, None)
