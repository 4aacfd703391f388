"""Whose an answer is: what belongs to one client or tenant is given to no other."""

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from caching import CACHED, always, fields
from joserfc import jwt
from joserfc.jwk import ECKey
from sharing import until
from upstream import Asked, gateway

from counterfoil.gateway.config import Cache, GatewayConfig, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream


@pytest.mark.parametrize(
    "field", ["counterfoil-effect: 7", "set-cookie: session=1", "content-type: text/event-stream"]
)
def test_an_answer_that_is_one_clients_own_is_never_kept(field: str, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    own = always("cache-control: public, max-age=60", field)
    with gateway(own, route=CACHED, access_log=log) as (client, server, _):
        for number in (1, 2):
            assert client.get("/x").headers["x-number"] == str(number)
        assert len(server.asked) == 2
        if "effect" in field:
            stubs = [json.loads(line) for line in log.read_text().splitlines()]
            assert [stub["effect"] for stub in stubs] == ["7", "7"]


def test_what_a_client_says_and_takes_back_chooses_no_answer_for_others() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        language = asked.headers.get("accept-language", "none").encode()
        connection.sendall(
            fields("cache-control: max-age=60", "vary: accept-language", body=language)
        )

    with gateway(answer, route=CACHED) as (client, _, _):
        german = {"accept-language": "de"}
        for option in ("Accept-Language", "close, accept-language", "keep-alive,accept-language"):
            asked = client.get("/x", headers={**german, "connection": option})
            assert asked.content == b"none"
        assert client.get("/x", headers=german).content == b"de"
        assert client.get("/x").content == b"none"


@pytest.mark.parametrize("field", ["x-forwarded-for", "x-request-id", "x-counterfoil-other"])
def test_what_depends_on_what_the_gateway_says_of_a_client_is_not_kept(field: str) -> None:
    own = always("cache-control: max-age=60", f"vary: {field}")
    with gateway(own, route=CACHED) as (client, _, _):
        assert [client.get("/x").headers["x-number"] for _ in range(2)] == ["1", "2"]


class Tenants:
    """Clients with tokens, of a gateway whose service answers as `answer` has it."""

    def __init__(self, answer: Callable[[str, str], bytes]) -> None:
        self._key = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
        self._answer = answer
        self.asked: list[str] = []

    @contextmanager
    def serving(self) -> Generator[DataPlane, None, None]:
        with gateway(self._serve) as (_, server, _):
            jwks_url = f"http://{server.address}/jwks"
            plane = DataPlane(
                GatewayConfig(
                    listen="127.0.0.1:0",
                    admin="127.0.0.1:0",
                    tls="off",
                    identity=Identity(issuer="me", audience="shop", jwks_url=jwks_url),
                    routes=(Route(path="/*", methods=("GET",), service="s", cache=Cache()),),
                    services={"s": Upstream(attempt_timeout_seconds=30.0)},
                ),
                access_log=None,
                admin_credential="c",
            )
            plane.set_endpoints("s", [("s-1", server.address)])
            self._base = f"http://{plane.listen}"
            until(lambda: self.get("ready", "/ready").status_code == 200)
            self.asked.clear()
            yield plane
            plane.drain(5.0)

    def get(self, tenant: str, path: str) -> httpx2.Response:
        claims = {"iss": "me", "aud": "shop", "exp": int(time.time()) + 60, "tier": "gold"}
        token = jwt.encode({"alg": "ES256", "kid": "k1"}, {**claims, "tenant": tenant}, self._key)
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.get(self._base + path, headers=headers, timeout=30)

    def _serve(self, asked: Asked, connection: socket.socket) -> None:
        _, path, _ = asked.line.split()
        if path == "/jwks":
            keys = {"keys": [{**self._key.as_dict(private=False), "kid": "k1"}]}
            connection.sendall(fields(body=json.dumps(keys).encode()))
            return
        self.asked.append(path)
        connection.sendall(self._answer(path, asked.headers["x-counterfoil-tenant"]))


def test_tenants_get_each_others_answers_only_where_those_say_that_they_are_public() -> None:
    def answer(path: str, tenant: str) -> bytes:
        control = {"/own": "s-maxage=60", "/open": "public, max-age=60"}.get(path, "max-age=60")
        return fields(f"cache-control: {control}", body=tenant.encode())

    tenants = Tenants(answer)
    with tenants.serving() as plane:
        for _ in range(2):
            for tenant in ("ann", "bob"):
                assert tenants.get(tenant, "/own").text == tenant
                assert tenants.get(tenant, "/plain").text == tenant
                assert tenants.get(tenant, "/open").text == "ann"
        assert httpx2.get(f"http://{plane.listen}/open").status_code == 401, "it takes a token too"
    assert sorted(tenants.asked) == ["/open"] + ["/own"] * 2 + ["/plain"] * 4


def test_who_waits_for_what_was_public_gets_no_other_tenants_answer_when_it_no_longer_is() -> None:
    def answer(_: str, tenant: str) -> bytes:
        if len(tenants.asked) == 1:
            return fields("cache-control: public, max-age=60")
        if len(tenants.asked) == 2:
            assert go.wait(20)
        return fields("cache-control: s-maxage=60", body=tenant.encode())

    go = threading.Event()
    tenants = Tenants(answer)
    with tenants.serving() as plane, ThreadPoolExecutor(3) as clients:
        tenants.get("ann", "/x")
        plane.purge(urls=["/x"], soft=True)
        before = plane.state()["requests"]
        names = ["ann", "bob", "eve"]
        answers = [clients.submit(tenants.get, name, "/x") for name in names]
        until(lambda: plane.state()["requests"] == before + 3 and len(tenants.asked) == 2)
        go.set()
        assert [each.result().text for each in answers] == names
