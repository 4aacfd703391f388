"""Issuers that change their keys, go away, come back, or speak TLS."""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from upstream import Server, sized

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.tls import development_certificate

PATIENCE_SECONDS = 20.0
CLIENT = httpx2.Client(timeout=PATIENCE_SECONDS)


def new_key(kid: str | None) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid} if kid else None, private=True)


class Quiet(http.server.ThreadingHTTPServer):
    """One that says nothing when a client refuses its certificate."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the tests' output quiet."""


@dataclass
class Issuer:
    """Publishes its keys, counts who asks, and can be away."""

    keys: list[ECKey]
    asked: int = 0
    away: bool = False
    tls: ssl.SSLContext | None = None
    server: http.server.ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                document: object = {"keys": [key.as_dict(private=False) for key in issuer.keys]}
                if self.path == "/.well-known/openid-configuration":
                    document = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}
                else:
                    issuer.asked += 1
                content = json.dumps(document).encode()
                self.send_response(503 if issuer.away else 200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the tests' output quiet."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        scheme, host = ("http", "127.0.0.1") if self.tls is None else ("https", "localhost")
        return f"{scheme}://{host}:{self.server.server_port}"

    def token(self, key: ECKey | None = None, **changes: object) -> str:
        key = key or self.keys[0]
        claims = {
            "iss": self.url,
            "aud": "shop",
            "tenant": "t1",
            "exp": int(time.time()) + 600,
            **changes,
        }
        header = {"alg": "ES256"} | ({"kid": key.kid} if key.kid else {})
        return jwt.encode(header, claims, key)

    def identity(self, **changes: str) -> Identity:
        return Identity(
            **{"issuer": self.url, "audience": "shop", "jwks_url": f"{self.url}/jwks", **changes}
        )


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer([new_key("k1")])
    yield issuer
    issuer.server.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(lambda _, connection: connection.sendall(sized(b"")))
    threading.Thread(target=server.accept, daemon=True).start()
    yield server
    server.close()


def config(*identities: Identity) -> GatewayConfig:
    return GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        identity=identities,
        routes=(Route(path="/", methods=("GET",), service="s"),),
    )


@contextmanager
def gateway(server: Server, *identities: Identity) -> Iterator[DataPlane]:
    plane = DataPlane(config(*identities), access_log=None, admin_credential="c")
    plane.set_endpoints("s", [("s-1", server.address)])
    yield plane
    plane.drain(1.0)


def ask(plane: DataPlane, token: str) -> httpx2.Response:
    return CLIENT.get(f"http://{plane.listen}/", headers={"authorization": f"Bearer {token}"})


def until(plane: DataPlane, token: str, status: int) -> httpx2.Response:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := ask(plane, token)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def test_keys_without_names_are_all_tried_and_a_new_one_is_fetched(
    server: Server, issuer: Issuer
) -> None:
    issuer.keys = [new_key(None) for _ in range(3)]
    named, foreign = new_key("k1"), new_key(None)
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        for key in issuer.keys:
            assert ask(plane, issuer.token(key)).status_code == 200
        assert "signature" in ask(plane, issuer.token(foreign)).json()["detail"]
        assert "not known" in ask(plane, issuer.token(named)).json()["detail"]
        issuer.keys += [foreign, named]
        until(plane, issuer.token(foreign), 200)
        until(plane, issuer.token(named), 200)
        # Who names no key may have signed by one with a name.
        nameless = ECKey.import_key(named.as_pem(private=True))
        assert ask(plane, issuer.token(nameless)).status_code == 200


def test_no_more_than_eight_keys_are_tried_for_a_token(server: Server, issuer: Issuer) -> None:
    issuer.keys = [new_key(None) for _ in range(9)] + [new_key("named")]
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        assert ask(plane, issuer.token(issuer.keys[7])).status_code == 200
        assert ask(plane, issuer.token(issuer.keys[8])).status_code == 401
        assert ask(plane, issuer.token(issuer.keys[9])).status_code == 200


def test_a_new_key_is_fetched_when_a_token_names_it(server: Server, issuer: Issuer) -> None:
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        issuer.keys.append(new_key("k2"))
        until(plane, issuer.token(issuer.keys[1]), 200)
        assert ask(plane, issuer.token()).status_code == 200, "the old key is still published"


def test_a_token_of_a_withdrawn_key_is_refused_though_it_passed_before(
    server: Server, issuer: Issuer
) -> None:
    with gateway(server, issuer.identity()) as plane:
        stolen = issuer.token()
        until(plane, stolen, 200)
        assert ask(plane, stolen).status_code == 200
        issuer.keys[0] = new_key("k2")
        until(plane, issuer.token(), 200)
        refused = ask(plane, stolen)
        assert (refused.status_code, "not known" in refused.text) == (401, True)


def test_a_key_replaced_under_its_name_is_noticed(server: Server, issuer: Issuer) -> None:
    with gateway(server, issuer.identity()) as plane:
        stolen = issuer.token()
        until(plane, stolen, 200)
        issuer.keys[0] = new_key("k1")
        ask(plane, issuer.token(new_key("k9")))  # asks for a fetch
        assert "signature" in until(plane, stolen, 401).text


def test_keys_go_on_being_used_while_the_issuer_is_away(server: Server, issuer: Issuer) -> None:
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        issuer.away = True
        unknown = issuer.token(new_key("k9"))
        assert ask(plane, unknown).status_code == 401
        while not (state := plane.state()["issuers"][0])["failures"]:
            time.sleep(0.02)
        assert ask(plane, issuer.token(tenant="t2")).status_code == 200
        assert "503" in state["trouble"]
        issuer.away = False
        while plane.state()["issuers"][0]["trouble"] is not None:
            time.sleep(0.02)


def test_made_up_key_ids_do_not_make_the_gateway_hammer_the_issuer(
    server: Server, issuer: Issuer
) -> None:
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        began, asked = time.monotonic(), issuer.asked
        for number in range(50):
            key = new_key(f"made-up-{number}")
            assert ask(plane, issuer.token(key)).status_code == 401
        assert issuer.asked - asked <= time.monotonic() - began + 2


def test_before_the_first_keys_the_client_is_told_to_come_again(
    server: Server, issuer: Issuer
) -> None:
    issuer.away = True
    with gateway(server, issuer.identity()) as plane:
        refused = ask(plane, issuer.token())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        issuer.away = False
        until(plane, issuer.token(), 200)


def test_an_issuer_that_names_the_place_of_its_keys_is_asked_for_it(
    server: Server, issuer: Issuer
) -> None:
    with gateway(server, issuer.identity(jwks_url="")) as plane:
        until(plane, issuer.token(), 200)


def test_several_issuers_vouch_each_for_their_own(server: Server, issuer: Issuer) -> None:
    other = Issuer([new_key("k1")])
    with gateway(server, issuer.identity(), other.identity(audience="mart")) as plane:
        until(plane, issuer.token(), 200)
        until(plane, other.token(aud="mart"), 200)
        assert "audience" in ask(plane, other.token(aud="shop")).text
        borrowed = other.token(issuer.keys[0], aud="mart")
        assert "signature" in ask(plane, borrowed).text
        assert "issuer" in ask(plane, issuer.token(iss="http://else")).text
    other.server.shutdown()


def test_keys_are_fetched_by_tls_from_whom_an_authority_vouches_for(
    server: Server, tmp_path: Path
) -> None:
    authority, certificate, key = development_certificate(tmp_path, datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    issuer = Issuer([new_key("k1")], tls=context)
    with gateway(server, issuer.identity(ca_file=str(authority))) as plane:
        until(plane, issuer.token(), 200)
        with pytest.raises(GatewayError, match=r"its keys can't be had.*certificate"):
            plane.reload(config(issuer.identity(jwks_url=f"{issuer.url}/other")))
        assert ask(plane, issuer.token()).status_code == 200
    issuer.server.shutdown()


def test_a_reload_to_an_issuer_without_keys_is_refused_and_to_one_with_keys_loses_nothing(
    server: Server, issuer: Issuer
) -> None:
    other = Issuer([new_key("k2")], away=True)
    with gateway(server, issuer.identity()) as plane:
        until(plane, issuer.token(), 200)
        with pytest.raises(GatewayError, match="its keys can't be had"):
            plane.reload(config(other.identity()))
        assert ask(plane, issuer.token()).status_code == 200
        other.away = False
        plane.reload(config(other.identity()))
        assert ask(plane, other.token()).status_code == 200, (
            "its keys were here before it was asked"
        )
        refused = ask(plane, issuer.token())
        assert (refused.status_code, "issuer" in refused.text) == (401, True)
        plane.reload(config(other.identity(audience="mart")))
        assert "audience" in ask(plane, other.token()).text, "known tokens are checked anew"
    other.server.shutdown()
