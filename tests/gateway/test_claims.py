"""What clients claim in headers that are not theirs to set, as a real service gets to see it."""

import socket

import pytest
from upstream import OK, Asked, gateway, sized

from counterfoil.gateway.config import Cache, Limit

CLAIMS = {
    "x_counterfoil_tenant": "forged",
    "X_Forwarded_For": "forged",
    "Forwarded": "for=forged",
    "X-Real-IP": "forged",
    "X-Forwarded-Host": "forged",
    "x_forwarded_proto": "forged",
}


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"fine"))


def test_no_client_says_in_another_spelling_or_header_what_is_the_gateways_to_say() -> None:
    with gateway(answer) as (client, server, _):
        assert client.get("/x", headers=CLAIMS | {"x_app": "its own"}).status_code == 200
        headers = server.asked[0].headers
        assert not [value for value in headers.values() if "forged" in value]
        assert headers["x_app"] == "its own"


def test_a_trusted_proxy_says_by_which_host_it_was_asked() -> None:
    settings = {"trusted_proxies": ("127.0.0.1",)}
    with gateway(answer, settings=settings) as (client, server, _):
        client.get("/x", headers={"x-forwarded-host": "shop.example", "x_forwarded_for": "6.6.6.6"})
        headers = server.asked[0].headers
        assert headers["x-forwarded-host"] == "shop.example"
        assert "x_forwarded_for" not in headers


def test_instances_are_told_by_what_scheme_and_host_they_were_asked() -> None:
    with gateway(answer) as (client, server, plane):
        client.get("/x", headers={"connection": "X-Forwarded-Proto, x-forwarded-host"})
        headers = server.asked[0].headers
        said = headers["x-forwarded-proto"], headers["x-forwarded-host"]
        assert said == ("http", plane.listen), "nobody takes that back"
        assert headers["host"] == server.address


def test_nobody_has_others_answered_by_the_cache_with_what_he_claimed() -> None:
    def reflect(asked: Asked, connection: socket.socket) -> None:
        host = asked.headers.get("x-forwarded-host", "").encode()
        head = OK + b"cache-control: max-age=60\r\ncontent-length: %d\r\n\r\n" % len(host)
        connection.sendall(head + host)

    with gateway(reflect, route={"cache": Cache()}) as (client, server, _):
        client.get("/page", headers={"x-forwarded-host": "evil.example"})
        assert client.get("/page").text == client.base_url.netloc.decode()
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("plain", "secure"),
    [
        ({"x-forwarded-proto": "http"}, {"x-forwarded-proto": "https"}),
        ({"forwarded": "for=192.0.2.1;proto=http"}, {"forwarded": "for=192.0.2.1;proto=https"}),
    ],
)
def test_what_is_answered_to_one_scheme_is_not_to_another(
    plain: dict[str, str], secure: dict[str, str]
) -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if any("https" in value for value in asked.headers.values()):
            connection.sendall(OK + b"cache-control: max-age=60\r\ncontent-length: 4\r\n\r\npage")
            return
        head = b"HTTP/1.1 301 Moved Permanently\r\nlocation: https://shop.example/page\r\n"
        connection.sendall(head + b"cache-control: max-age=60\r\ncontent-length: 0\r\n\r\n")

    settings = {"trusted_proxies": ("127.0.0.1",)}
    with gateway(answer, route={"cache": Cache()}, settings=settings) as (client, server, _):
        for _ in range(2):
            assert client.get("/page", headers=plain).status_code == 301
            assert client.get("/page", headers=secure).text == "page"
        others = {"x-real-ip": "192.0.2.9"}
        assert client.get("/page", headers=secure | others).text == "page"
        assert len(server.asked) == 2, "who asks makes no difference"


def test_a_header_that_no_proxy_can_read_does_not_have_what_came_before_it_believed() -> None:
    settings = {"trusted_proxies": ("127.0.0.1",)}
    with gateway(answer, settings=settings) as (_, server, plane):
        host, _, port = plane.listen.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(
                b"GET /x HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 6.6.6.6\r\n"
                b"x-forwarded-for: \xff, 192.0.2.1\r\nconnection: close\r\n\r\n"
            )
            assert client.recv(16).startswith(b"HTTP/1.1 200")
        assert server.asked[0].headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1"


def test_addresses_of_one_network_of_ipv6_share_a_limit() -> None:
    settings = {
        "trusted_proxies": ("127.0.0.1",),
        "limits": {"each": Limit(key="address", rate=0.001, burst=1)},
    }
    with gateway(answer, route={"limits": ("each",)}, settings=settings) as (client, _, _):

        def asks(address: str) -> int:
            return client.get("/x", headers={"x-forwarded-for": address}).status_code

        assert [asks(f"2001:db8::{number:x}") for number in (1, 2, 3)] == [200, 429, 429]
        assert [asks(each) for each in ("2001:db8:0:1::1", "192.0.2.1")] == [200, 200]
        assert asks("::ffff:192.0.2.1") == 429


@pytest.mark.parametrize("key", [{"idempotency-key": ""}, {"idempotency-key": "k"}])
def test_a_command_is_sent_again_by_a_key_and_not_by_an_empty_one(key: dict[str, str]) -> None:
    with gateway(lambda _, __: False) as (client, server, _):
        assert client.post("/x", headers=key, content=b"pay").status_code == 502
        assert (len(server.asked) == 1) == (key["idempotency-key"] == "")
