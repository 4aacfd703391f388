"""The same requests over HTTP/1.1, HTTP/2 and HTTP/3."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from clients import Http1, Http2, Http3
from secure import Secure, secure
from upstream import Asked, chunked, sized

from counterfoil.gateway.config import GatewayConfig
from counterfoil.gateway.services import Upstream

LARGE = bytes(range(256)) * 2_048  # 512 KiB: more than is kept whole
Client = type[Http1] | type[Http2] | type[Http3]


class Shop:
    """A server of some paths, whose slow one waits until it is let go."""

    def __init__(self) -> None:
        self.slow, self.go_on = threading.Event(), threading.Event()

    def answer(self, asked: Asked, connection: socket.socket) -> bool | None:
        match asked.line.split()[1]:
            case "/s/large":
                connection.sendall(sized(LARGE))
            case "/s/chunked":
                connection.sendall(chunked(LARGE, LARGE))
            case "/s/none":
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            case "/s/broken":
                connection.sendall(sized(LARGE)[:-1])
                return False
            case "/s/slow":
                self.slow.set()
                self.go_on.wait(20)
                connection.sendall(sized(b"slow"))
            case "/s/headers":
                seen = "".join(f"{name}: {value}\n" for name, value in asked.headers.items())
                connection.sendall(sized(seen.encode()))
            case _:
                whole = sized(asked.line.encode() + b"\n" + asked.body)
                if asked.line.startswith("HEAD"):
                    whole = whole[: whole.index(b"\r\n\r\n") + 4]
                connection.sendall(whole)
        return None


async def until(condition: Callable[[], object]) -> None:
    """Wait for what the gateway says of itself."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110, there is nothing to be woken by
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="module")
def gateway(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Generator[Secure, None, None]:
    service = Upstream(attempt_timeout_seconds=30.0)
    with secure(tmp_path_factory.mktemp("tls"), shop.answer, service=service) as gateway:
        yield gateway


@pytest.fixture(params=[Http1, Http2, Http3], ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    return request.param


def test_get(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            for _ in range(3):
                answer = await connection.ask("GET", "/s/a?b=c")
                assert (answer.status, answer.body) == (200, b"GET /s/a?b=c HTTP/1.1\n")
                assert answer.headers["content-length"] == str(len(answer.body))
                assert answer.headers["date"].endswith(" GMT")
                assert answer.headers["x-request-id"]

    asyncio.run(scenario())


def test_head_has_the_length_and_no_body(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            answer = await connection.ask("HEAD", "/s/a")
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["content-length"] == str(len("HEAD /s/a HTTP/1.1\n"))
            missing = await connection.ask("HEAD", "/elsewhere")
            assert (missing.status, missing.body) == (404, b"")
            assert (await connection.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 20_000, len(LARGE)])
def test_a_body_arrives_as_it_was_sent(gateway: Secure, client: Client, size: int) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            answer = await connection.ask("POST", "/s/a", body=LARGE[:size])
            assert answer.body == b"POST /s/a HTTP/1.1\n" + LARGE[:size]

    asyncio.run(scenario())


def test_answers_without_a_body_and_with_a_large_one(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            assert (await connection.ask("GET", "/s/none")).status == 204
            assert (await connection.ask("GET", "/s/large")).body == LARGE
            assert (await connection.ask("GET", "/s/chunked")).body == LARGE + LARGE

    asyncio.run(scenario())


def test_a_trailer_does_not_disturb_its_request(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            answer = await connection.ask("POST", "/s/a", body=b"abc", trailer=[("x-sum", "1")])
            assert (answer.status, answer.body) == (200, b"POST /s/a HTTP/1.1\nabc")
            assert (await connection.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())


def test_a_service_sees_the_same_request(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            headers = [("x-app", "1"), ("x-request-id", "abc"), ("x-counterfoil-tenant", "forged")]
            seen = (await connection.ask("GET", "/s/headers", headers)).body.decode().splitlines()
            assert {"x-app: 1", "x-request-id: abc", "x-forwarded-for: 127.0.0.1"} <= set(seen)
            assert f"host: {gateway.server.address}" in seen
            assert not any("forged" in line or line.startswith(":") for line in seen)

    asyncio.run(scenario())


def test_refusals_leave_the_connection_as_it_was(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            missing = await connection.ask("GET", "/elsewhere")
            assert missing.status == 404
            assert missing.headers["content-type"] == "application/problem+json"
            wrong = await connection.ask("PUT", "/s/a", body=b"abc")
            assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
            assert (await connection.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())


def test_a_body_beyond_the_limit_is_refused(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            answer = await connection.ask("POST", "/s/a", body=LARGE * 2)
            assert answer.status == 413
            if client is not Http1:
                assert (await connection.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())


def test_an_answer_that_breaks_off_reaches_nobody_as_a_whole_one(
    gateway: Secure, client: Client
) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            if client is Http1:
                with pytest.raises(asyncio.IncompleteReadError):
                    await connection.ask("GET", "/s/broken")
            else:
                answer = await connection.ask("GET", "/s/broken")
                assert answer.reset is not None
                assert (await connection.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())


def test_a_request_given_up_frees_its_place(gateway: Secure, shop: Shop, client: Client) -> None:
    def in_flight() -> int:
        return gateway.plane.state()["services"]["s"]["in_flight"]

    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            seen = asyncio.Event()
            cancelling = asyncio.create_task(connection.cancel("/s/slow", seen))
            await asyncio.to_thread(shop.slow.wait, 20)
            assert in_flight() == 1
            seen.set()
            await cancelling
            await until(lambda: not in_flight())
            if client is not Http1:
                assert (await connection.ask("GET", "/s/a")).status == 200

    shop.slow.clear()
    asyncio.run(scenario())
    shop.go_on.set()
    shop.go_on.clear()


@pytest.mark.parametrize("client", [Http2, Http3], ids=lambda client: client.name)
def test_many_requests_at_once_on_one_connection(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            asking = [
                connection.ask("POST", f"/s/{number}", body=b"%d" % number * 1000)
                for number in range(100)
            ]
            for number, answer in enumerate(await asyncio.gather(*asking)):
                wanted = f"POST /s/{number} HTTP/1.1\n".encode() + b"%d" % number * 1000
                assert answer.body == wanted

    asyncio.run(scenario())


def test_answers_of_the_older_protocols_name_http3(gateway: Secure, client: Client) -> None:
    async def scenario() -> None:
        async with client.to(gateway.port, gateway.authority) as connection:
            named = (await connection.ask("GET", "/s/a")).headers.get("alt-svc")
            wanted = None if client is Http3 else f'h3=":{gateway.port}"; ma=86400'
            assert named == wanted

    asyncio.run(scenario())


def test_a_client_of_http3_stays_connected_from_another_address(gateway: Secure) -> None:
    async def scenario() -> None:
        async with Http3.to(gateway.port, gateway.authority) as connection:
            for _ in range(5):  # two threads: half of the ports would lead to the other one
                assert (await connection.ask("POST", "/s/a", body=b"abc")).status == 200
                await connection.move()
                assert (await connection.ask("GET", "/s/large")).body == LARGE
            assert connection.ended is None

    asyncio.run(scenario())


@pytest.mark.parametrize("client", [Http1, Http2, Http3], ids=lambda client: client.name)
def test_a_drain_finishes_what_is_under_way_in_each_protocol(
    client: Client, tmp_path: Path
) -> None:
    shop = Shop()
    with secure(tmp_path, shop.answer, service=Upstream(attempt_timeout_seconds=30.0)) as gateway:

        async def scenario() -> None:
            async with client.to(gateway.port, gateway.authority) as connection:
                asking = asyncio.create_task(connection.ask("GET", "/s/slow"))
                await asyncio.to_thread(shop.slow.wait, 20)
                draining = asyncio.create_task(asyncio.to_thread(gateway.plane.drain, 20.0))
                await until(lambda: gateway.plane.state()["draining"])
                async with asyncio.timeout(60):
                    with pytest.raises((ConnectionError, TimeoutError)):
                        while True:  # who stands at the door when a drain begins is let in
                            async with (
                                asyncio.timeout(5),
                                client.to(gateway.port, gateway.authority),
                            ):
                                pass
                shop.go_on.set()
                answer = await asking
                assert (answer.status, answer.body) == (200, b"slow")
                before = time.monotonic()
                await draining
                assert time.monotonic() - before < 5, "a drained connection should end at once"

        asyncio.run(scenario())


def test_a_length_that_is_not_the_bodys_is_refused(gateway: Secure) -> None:
    async def scenario() -> None:
        async with Http3.to(gateway.port, gateway.authority) as connection:
            for length, body in [("2", b"abc"), ("4", b"abc"), ("+3", b"abc"), ("3, 3", b"abc")]:
                answer = await connection.ask("POST", "/s/a", [("content-length", length)], body)
                assert answer.status == 400 or answer.reset == 0x10E, length
            assert not any(asked.body for asked in gateway.server.asked if "length" in asked.line)
            fine = await connection.ask("POST", "/s/a", [("content-length", "3")], b"abc")
            assert fine.status == 200
            forbidden = await connection.ask("GET", "/s/a", [("transfer-encoding", "chunked")])
            assert forbidden.reset == 0x10E

    asyncio.run(scenario())


def test_an_empty_part_is_not_the_end_of_a_body(gateway: Secure) -> None:
    async def scenario() -> None:
        async with Http3.to(gateway.port, gateway.authority) as connection:
            stream = connection.begin("POST", "/s/a", last=False)
            for part in (b"abc", b"", b"def"):
                connection.h3.send_data(stream, part, end_stream=False)
            connection.h3.send_data(stream, b"", end_stream=True)
            connection.transmit()
            await asyncio.wait_for(connection.answers[stream].ended.wait(), 20)
            assert connection.answers[stream].body == b"POST /s/a HTTP/1.1\nabcdef"

    asyncio.run(scenario())


def test_http3_without_tls_is_refused_with_its_remedy() -> None:
    with pytest.raises(ValueError, match="http3 needs TLS"):
        GatewayConfig(http3=True, tls="off")
