"""The operators' port: who may use it, what it shows and what it does."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from upstream import Asked, Server, gateway, sized

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.credentials import ApiKey, SigningKey
from counterfoil.gateway.data_plane import DataPlane, SharedLimits

CREDENTIAL = "credential-of-operators"
SECRETS = ("password-of-redis", "x" * 40, CREDENTIAL)


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"abc"))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    (tmp_path / "depot.key").write_text(SECRETS[1])
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            api_keys={"billing": ApiKey(sha256="0" * 64, tenant="t1")},
            signing_keys={"depot": SigningKey(secret_file="depot.key", tenant="t2")},
            routes=(Route(path="/a", methods=("GET",), service="s", identity=False),),
        ),
        access_log=None,
        admin_credential=CREDENTIAL,
        shared_limits=SharedLimits(f"redis://user:{SECRETS[0]}@127.0.0.1:1/0", "shop", SECRETS[0]),
        folder=tmp_path,
    )
    plane.set_endpoints("s", [("s-1", server.address)])
    yield plane
    plane.drain(1.0)
    server.close()


def ask(plane: DataPlane, method: str, path: str, credential: str = CREDENTIAL) -> httpx2.Response:
    headers = {"authorization": f"Bearer {credential}"}
    return httpx2.request(method, f"http://{plane.admin}{path}", headers=headers)


@pytest.mark.parametrize("path", ["/state", "/metrics", "/config", "/drain", "/breakers"])
def test_nothing_is_told_or_done_without_the_credential(plane: DataPlane, path: str) -> None:
    for credential in ("x", CREDENTIAL[:-1], CREDENTIAL + "x"):
        assert ask(plane, "POST", path, credential).status_code == 401
    assert not plane.state()["draining"]


def test_the_configuration_in_force_is_shown_without_its_secrets(plane: DataPlane) -> None:
    shown = ask(plane, "GET", "/config")
    assert shown.json()["routes"][0]["path"] == "/a"
    assert shown.json()["signing_keys"]["depot"] == {
        "secret": "(hidden)",
        "tenant": "t2",
        "tier": "bronze",
    }
    assert not any(secret in shown.text for secret in SECRETS)


def test_routes_tell_what_became_of_their_requests(plane: DataPlane) -> None:
    assert httpx2.get(f"http://{plane.listen}/a").status_code == 200
    (route,) = ask(plane, "GET", "/state").json()["routes"]
    assert (route["path"], route["answers"]) == ("/a", [0, 1, 0, 0, 0])
    assert route["latency_us"]["p99"] > 0


def test_an_operator_holds_a_breaker_and_lets_go(plane: DataPlane) -> None:
    def hold(mode: str, instance: str = "s-1") -> int:
        headers = {"authorization": f"Bearer {CREDENTIAL}"}
        given = {"service": "s", "instance": instance, "mode": mode}
        return httpx2.post(
            f"http://{plane.admin}/breakers", headers=headers, json=given
        ).status_code

    def asked() -> int:
        return httpx2.get(f"http://{plane.listen}/a").status_code

    assert (asked(), hold("open"), asked()) == (200, 200, 503)
    assert (hold("auto"), asked()) == (200, 200)
    assert (hold("ajar"), hold("open", "s-2")) == (400, 400)
    assert asked() == 200


def test_a_drain_lets_nobody_new_in(plane: DataPlane) -> None:
    assert ask(plane, "POST", "/drain").json() == {"draining": True}
    assert ask(plane, "GET", "/state").json()["draining"], "operators are still let in"
    with pytest.raises(httpx2.TransportError):
        while True:  # the listener closes a moment later
            httpx2.get(f"http://{plane.listen}/a")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/state", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PUT", "/config", "GET, HEAD"),
        ("GET", "/drain", "POST"),
        ("GET", "/breakers", "POST"),
        ("DELETE", "/cache/purge", "POST"),
        ("GET", "/splits", "POST"),
    ],
)
def test_what_is_asked_by_the_wrong_method_says_by_which(
    plane: DataPlane, method: str, path: str, allowed: str
) -> None:
    answered = ask(plane, method, path)
    assert (answered.status_code, answered.headers["allow"]) == (405, allowed)
    assert allowed in answered.json()["detail"]
    assert not plane.state()["draining"]


def test_a_drain_waits_for_no_operator(plane: DataPlane) -> None:
    """A scraper keeps its connection; it is no client, and is not counted as one."""
    headers = {"authorization": f"Bearer {CREDENTIAL}"}
    with httpx2.Client(base_url=f"http://{plane.admin}", headers=headers) as scraper:
        assert "counterfoil_gateway_connections 0" in scraper.get("/metrics").text.splitlines()
        drained = threading.Thread(target=plane.drain, args=(300.0,))
        drained.start()
        drained.join(60.0)
        assert not drained.is_alive()
        assert scraper.get("/state").json()["draining"]


def test_requests_that_no_route_takes_are_counted(plane: DataPlane) -> None:
    assert httpx2.post(f"http://{plane.listen}/a").status_code == 405
    assert httpx2.get(f"http://{plane.listen}/nowhere").status_code == 404
    lines = ask(plane, "GET", "/metrics").text.splitlines()
    name = "counterfoil_gateway_request"
    assert f'{name}s_total{{route="none",status="4xx"}} 2' in lines
    assert f'{name}_duration_seconds_count{{route="none"}} 2' in lines


def test_a_client_of_ipv4_is_one_on_a_port_of_ipv6_too() -> None:
    def tell(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(asked.headers["x-forwarded-for"].encode()))

    with gateway(tell, settings={"listen": "[::]:0"}) as (_, _, plane):
        port = plane.listen.rpartition(":")[2]
        for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            assert httpx2.get(f"http://{host}:{port}/").text == address
