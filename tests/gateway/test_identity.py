"""The real data plane in front of a real server: tokens of every kind, limits and bodies."""

import base64
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
KEY = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
ED25519 = OKPKey.generate_key("Ed25519", {"kid": "ed"}, private=True)
RSA = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
CLIENT = httpx2.Client(timeout=20)
PUBLISHED = [key.as_dict(private=False) for key in (KEY, ED25519, RSA)]


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"keys": PUBLISHED})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.answer(dict(self.headers))

    def answer(self, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""


def token(
    key: object = KEY,
    alg: str = "ES256",
    kid: str = "k1",
    header: Mapping[str, object] = MappingProxyType({}),
    **changes: object,
) -> str:
    now = int(time.time())
    claims = {
        "iss": "me",
        "aud": "shop",
        "tenant": "t1",
        "tier": "gold",
        "exp": now + 60,
        **changes,
    }
    return jwt.encode({"alg": alg, "kid": kid, **header}, claims, key, algorithms=[alg])  # type: ignore[arg-type]


def forged(header: dict[str, object], key: bytes, claims: str) -> str:
    """A token whose MAC (HS256) is by `key`, whatever its header says."""
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    signed = f"{head}.{claims}"
    mac = hmac.digest(key, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def confused(header: dict[str, object], key: ECKey | RSAKey) -> str:
    """The public key taken for a shared secret: what an attacker can make of it."""
    return forged(header, key.as_pem(private=False), token().split(".")[1])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    log = tmp_path_factory.mktemp("gateway") / "access.jsonl"
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            request_body_limit=1000,
            identity=Identity(issuer="me", audience="shop", jwks_url=f"http://{address}/jwks"),
            limits={"tight": Limit(key="tenant", rate=0.01, burst=2)},
            routes=(
                Route(path="/pay", methods=("POST",), service="s"),
                Route(path="/tight", methods=("POST",), service="s", limits=("tight",)),
            ),
        ),
        access_log=log,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", address)])
    base = f"http://{plane.listen}"
    while post(base, token()).status_code == 503:
        time.sleep(0.01)
    yield base, log
    plane.drain(1.0)
    server.shutdown()


def post(base: str, bearer: str, path: str = "/pay", **more: object) -> httpx2.Response:
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    return CLIENT.post(base + path, headers=headers, **more)  # type: ignore[arg-type]


def test_a_good_token_passes_and_its_claims_reach_the_service(gateway: tuple[str, Path]) -> None:
    answer = post(gateway[0], token())
    assert answer.status_code == 200
    seen = {name.lower(): value for name, value in answer.json().items()}
    assert (seen["x-counterfoil-tenant"], seen["x-counterfoil-tier"]) == ("t1", "gold")
    assert "authorization" not in seen


@pytest.mark.parametrize(
    "bearer",
    [
        lambda: token(key=ED25519, alg="EdDSA", kid="ed"),
        lambda: token(key=ED25519, alg="Ed25519", kid="ed"),
        lambda: token(key=RSA, alg="RS256", kid="rsa"),
        lambda: token(header={"typ": "JWT"}),
        lambda: token(header={"typ": "at+jwt"}),
        lambda: token(header={"typ": "application/at+JWT"}),
        lambda: token(aud=["else", "shop"]),
        lambda: token(exp=int(time.time()) - 5),
        lambda: token(nbf=int(time.time()) + 5),
        lambda: token(exp=time.time() + 60.5, nbf=time.time() - 0.5),
    ],
)
def test_good_tokens_of_every_kind_pass(
    gateway: tuple[str, Path], bearer: Callable[[], str]
) -> None:
    assert [post(gateway[0], bearer()).status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("bearer", "says"),
    [
        (lambda: "", "needed"),
        (lambda: "garbage", "not a JSON Web Token"),
        (lambda: token(exp=1), "expired"),
        (lambda: token(exp=time.time() - 60.5), "expired"),
        (lambda: token(exp=-0.5), "expired"),
        (lambda: token(nbf=time.time() + 60.5), "not valid yet"),
        (lambda: token(nbf=2**40), "not valid yet"),
        (lambda: token(iss="you"), "another issuer"),
        (lambda: token(aud="else"), "another audience"),
        (lambda: token(tenant=""), "no tenant"),
        (lambda: token(kid="k9"), "not known"),
        (lambda: token(key=ECKey.generate_key("P-256")), "signature"),
        (lambda: token(key=OctKey.import_key("x" * 32), alg="HS256"), "algorithm"),
        (lambda: "eyJhbGciOiJub25lIn0.e30.", "algorithm"),
        (lambda: confused({"alg": "HS256", "kid": "k1"}, KEY), "algorithm"),
        (lambda: confused({"alg": "HS256", "kid": "rsa"}, RSA), "algorithm"),
        (lambda: confused({"alg": "RS256", "kid": "rsa"}, RSA), "signature"),
        (lambda: confused({"alg": "RS256", "kid": "k1"}, KEY), "algorithm"),
        (lambda: confused({"alg": "EdDSA", "kid": "k1"}, KEY), "algorithm"),
        (lambda: token(key=ED25519, alg="EdDSA", kid="k1"), "algorithm"),
        (lambda: token(key=OKPKey.generate_key("Ed25519"), alg="EdDSA", kid="ed"), "signature"),
        (lambda: token(key=RSAKey.generate_key(2048), alg="RS256", kid="rsa"), "signature"),
        (lambda: token(header={"typ": "logout+jwt"}), "another type"),
        (lambda: token(header={"typ": "dpop+jwt"}), "another type"),
        (
            lambda: forged({"alg": "ES256", "kid": "k1", "crit": ["x"], "x": 1}, b"k", "e30"),
            "not a",
        ),
        (lambda: forged({"alg": "ES256", "kid": "k1", "crit": []}, b"k", "e30"), "not a"),
        (lambda: token() + "=", "not a JSON Web Token"),
        (lambda: token()[:-6], "signature"),
        (lambda: token(nbf="soon"), "not a JSON Web Token"),
        (lambda: token(exp="later"), "expired"),
        (lambda: token(exp=-1), "expired"),
        (lambda: token(aud=["a", "b"]), "another audience"),
        (lambda: token(tenant="a b"), "no tenant"),
        (lambda: token(tenant="a\r\nx-counterfoil-tier: gold"), "no tenant"),
        (lambda: token(pad="x" * 8192), "not a JSON Web Token"),
    ],
)
def test_a_bad_token_is_a_401_that_says_why(
    gateway: tuple[str, Path], bearer: Callable[[], str], says: str
) -> None:
    answer = post(gateway[0], bearer())  # made now: one made at collection expires meanwhile
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_the_challenge_names_an_error_where_there_was_a_token(gateway: tuple[str, Path]) -> None:
    """As RFC 6750, section 3.1, wants it."""
    answer = post(gateway[0], token(exp=1))
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    for headers in ({}, {"authorization": "Basic YTpi"}, {"x-api-key": "unknown"}):
        answer = httpx2.post(gateway[0] + "/pay", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_unknown_routes_large_bodies_and_used_up_limits(gateway: tuple[str, Path]) -> None:
    base, _ = gateway
    assert post(base, token(), "/else").status_code == 404
    assert httpx2.get(base + "/pay").status_code == 405
    assert post(base, token(), content=b"x" * 1001).status_code == 413
    answers = [post(base, token(), "/tight") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_an_answer_has_its_line_before_the_client_has_it(gateway: tuple[str, Path]) -> None:
    base, log = gateway
    for number in range(20):
        request_id = f"id-{number}"
        httpx2.post(
            base + "/pay",
            headers={"authorization": f"Bearer {token()}", "x-request-id": request_id},
        )
        last = json.loads(log.read_text().splitlines()[-1])
        assert (last["request_id"], last["status"], last["instance"]) == (request_id, 200, "s-1")
