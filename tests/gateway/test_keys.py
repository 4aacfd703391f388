"""Clients that show an API key, or sign their requests."""

import secrets
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx2
import msgspec
import pytest
from upstream import Asked, Server, sized

from counterfoil.gateway.api_keys import WrongName, new_api_key
from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.credentials import ApiKey, SigningKey
from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.signing import signed_headers

KEY, DIGEST = new_api_key("billing")
SECRET = secrets.token_urlsafe(32)
CONFIG = GatewayConfig(
    listen="127.0.0.1:0",
    admin="127.0.0.1:0",
    tls="off",
    api_keys={"billing": ApiKey(sha256=DIGEST, tenant="t1", tier="gold")},
    signing_keys={"depot": SigningKey(secret_file="depot.key", tenant="t2")},
    routes=(Route(path="/*", methods=("GET", "POST"), service="s"),),
)


def answer(asked: Asked, connection: socket.socket) -> None:
    seen = {**asked.headers, "body": asked.body.decode()}
    connection.sendall(sized(msgspec.json.encode(seen)))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    folder = tmp_path_factory.mktemp("keys")
    (folder / "depot.key").write_text(SECRET + "\n")
    plane = DataPlane(CONFIG, access_log=None, admin_credential="c", folder=folder)
    plane.set_endpoints("s", [("s-1", server.address)])
    yield plane
    plane.drain(1.0)
    server.close()


@pytest.fixture(scope="module")
def client(plane: DataPlane) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client


def signed(
    body: bytes = b"", *, method: str = "POST", path: str = "/x", **changes: object
) -> dict[str, str]:
    settings = {"key_id": "depot", "secret": SECRET.encode(), "created": int(time.time())} | changes
    return signed_headers(method, f"http://h{path}", body, **settings)  # type: ignore[arg-type]


def test_an_api_key_says_who_asks_and_does_not_go_on(client: httpx2.Client) -> None:
    got = client.get("/x", headers={"x-api-key": KEY})
    assert got.status_code == 200
    assert got.json()["x-counterfoil-tenant"] == "t1"
    assert got.json()["x-counterfoil-tier"] == "gold"
    assert "x-api-key" not in got.json()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "cf_billing_",
        KEY[:-1],
        KEY + "x",
        KEY.replace("billing", "depot"),
        new_api_key("billing")[0],
        "x" * 9_000,
    ],
    ids=["none", "no secret", "cut short", "too long", "another's name", "unknown", "huge"],
)
def test_a_wrong_api_key_is_refused(client: httpx2.Client, key: str) -> None:
    got = client.get("/x", headers={"x-api-key": key})
    assert (got.status_code, got.headers["content-type"]) == (401, "application/problem+json")


def test_a_key_that_is_taken_out_of_the_configuration_is_refused(plane: DataPlane) -> None:
    asked = {"url": f"http://{plane.listen}/x", "headers": {"x-api-key": KEY}}
    plane.reload(msgspec.structs.replace(CONFIG, api_keys={}))
    assert httpx2.get(**asked).status_code == 401  # type: ignore[arg-type]
    plane.reload(CONFIG)
    assert httpx2.get(**asked).status_code == 200  # type: ignore[arg-type]


def test_a_key_has_a_name_that_can_be_told_from_its_secret() -> None:
    for name in ("", "a_b", "A", "x" * 65):
        with pytest.raises(WrongName):
            new_api_key(name)


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 100_000])
def test_a_signed_request_passes_with_its_body(client: httpx2.Client, body: bytes) -> None:
    got = client.post("/x?a=1&b", headers=signed(body, path="/x?a=1&b"), content=body)
    assert (got.status_code, got.json()["x-counterfoil-tenant"]) == (200, "t2")
    assert got.json()["body"].encode() == body


def test_a_signature_passes_once_over_a_reload_too(plane: DataPlane, client: httpx2.Client) -> None:
    headers = signed(b"{}")
    assert client.post("/x", headers=headers, content=b"{}").status_code == 200
    again = client.post("/x", headers=headers, content=b"{}")
    assert (again.status_code, "used before" in again.text) == (401, True)
    plane.reload(CONFIG)
    assert client.post("/x", headers=headers, content=b"{}").status_code == 401


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"created": 1}, "more than a minute ago"),
        ({"created": 2**40}, "from the future"),
        ({"key_id": "else"}, "not known"),
        ({"secret": b"x" * 43}, "is wrong"),
        ({"method": "GET"}, "is wrong"),
        ({"path": "/y"}, "is wrong"),
        ({"path": "/x?a=1"}, "is wrong"),
    ],
)
def test_a_signature_of_something_else_is_refused(
    client: httpx2.Client, changes: dict[str, object], says: str
) -> None:
    got = client.post("/x", headers=signed(b"{}", **changes), content=b"{}")  # type: ignore[arg-type]
    assert (got.status_code, says in got.json()["detail"]) == (401, True), got.text


def test_another_body_than_the_signed_one_never_reaches_the_service(client: httpx2.Client) -> None:
    got = client.post("/x", headers=signed(b"{}"), content=b"[]")
    assert (got.status_code, "another body" in got.text) == (401, True)
    digest = b64encode(sha256(b"[]").digest()).decode()
    forged = signed(b"{}") | {"content-digest": f"sha-256=:{digest}:"}
    got = client.post("/x", headers=forged, content=b"[]")
    assert (got.status_code, "is wrong" in got.text) == (401, True)


@pytest.mark.parametrize(
    ("rewrite", "says"),
    [
        (('"@query" "content-digest"', '"@query"'), "is wrong"),
        (('"@method"', '"@method" "@method"'), "twice"),
        (('"@method"', '"@status"'), "can't check"),
        (('"@method"', '"@method";req'), "can't check"),
        (("created=", "made="), "no time"),
        (('alg="hmac-sha256"', 'alg="ed25519"'), "another algorithm"),
        (("sig=(", "other=("), "malformed"),
        (("sig=(", "sig=("[:-1]), "malformed"),
    ],
)
def test_a_signature_that_was_tampered_with_is_refused(
    client: httpx2.Client, rewrite: tuple[str, str], says: str
) -> None:
    headers = signed(b"{}")
    headers["signature-input"] = headers["signature-input"].replace(*rewrite)
    got = client.post("/x", headers=headers, content=b"{}")
    assert (got.status_code, says in got.json()["detail"]) == (401, True), got.text


def test_a_secret_that_is_too_short_or_missing_is_refused_at_once(tmp_path: Path) -> None:
    for content, says in ((None, "can't be read"), ("short", "shorter than 32 bytes")):
        if content is not None:
            (tmp_path / "depot.key").write_text(content)
        with pytest.raises(GatewayError, match=says):
            DataPlane(CONFIG, access_log=None, admin_credential="c", folder=tmp_path)
