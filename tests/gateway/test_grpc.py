"""gRPC through the gateway: grpcio on both sides, which knows nothing of what is between."""

import queue
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_service import LARGE, SERVICE
from test_attempts import until

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

PATIENCE = 20.0


@contextmanager
def instance(name: str) -> Generator[tuple[str, subprocess.Popen[str]], None, None]:
    command = [sys.executable, str(Path(__file__).parent / "grpc_service.py"), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.kill()


@contextmanager
def gateway(
    instances: dict[str, str], **protection: object
) -> Generator[tuple[grpc.Channel, DataPlane], None, None]:
    route = Route(path=f"/{SERVICE}/*", methods=("POST",), service="s", identity=False)
    service = Upstream(protocol="h2c", **protection)  # type: ignore[arg-type]
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(route,),
        services={"s": service},
        request_body_limit=0,
    )
    plane = DataPlane(config, access_log=None, admin_credential="c")
    plane.set_endpoints("s", instances.items())
    # Without this, channels of one test to another's port would be the same.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(plane.listen, options) as channel:
        yield channel, plane
    plane.drain(5.0)


@pytest.fixture(scope="module")
def service() -> Generator[str, None, None]:
    with instance("s-1") as (address, _):
        yield address


@pytest.fixture(scope="module")
def channel(service: str) -> Generator[grpc.Channel, None, None]:
    with gateway({"s-1": service}, attempt_timeout_seconds=10.0) as (channel, _):
        yield channel


def unary(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(f"/{SERVICE}/{method}")


def test_a_unary_call_comes_back_with_its_trailing_metadata(channel: grpc.Channel) -> None:
    for size in (0, 1, LARGE):
        answer, call = unary(channel, "echo").with_call(b"x" * size, timeout=PATIENCE)
        assert answer == b"x" * size
        assert ("instance", "s-1") in call.trailing_metadata()


def test_what_belongs_to_a_connection_stays_there_and_te_goes_on(channel: grpc.Channel) -> None:
    metadata = (("x-app", "1"), ("x-data-bin", b"\0\xff"), ("x-counterfoil-tenant", "forged"))
    seen = unary(channel, "headers")(b"", metadata=metadata, timeout=PATIENCE).decode()
    names = {line.partition(":")[0] for line in seen.splitlines()}
    assert {"x-app", "x-data-bin", "x-request-id", "x-forwarded-for"} <= names
    assert not names & {"x-counterfoil-tenant", "connection", "transfer-encoding"}


def test_messages_of_a_stream_come_as_they_are_sent(channel: grpc.Channel) -> None:
    count = channel.unary_stream(f"/{SERVICE}/count")
    assert list(count(b"500", timeout=PATIENCE)) == [b"%d" % number for number in range(500)]


def test_a_large_stream_is_bounded_by_who_reads_it(channel: grpc.Channel) -> None:
    large = channel.unary_stream(f"/{SERVICE}/large")(b"20", timeout=PATIENCE)
    other = unary(channel, "echo")
    for number, message in enumerate(large):
        assert message == bytes([number]) * LARGE
        # Whoever reads slowly holds up nobody else.
        assert other(b"beside", timeout=PATIENCE) == b"beside"


def test_a_client_streams_more_than_is_kept(channel: grpc.Channel) -> None:
    total = channel.stream_unary(f"/{SERVICE}/total")
    assert total((b"x" * 100_000 for _ in range(50)), timeout=PATIENCE) == b"5000000"


def test_both_sides_talk_in_turns_and_the_service_may_end_it(channel: grpc.Channel) -> None:
    said: queue.Queue[bytes | None] = queue.Queue()
    said.put(b"hello")
    answers = channel.stream_stream(f"/{SERVICE}/chat")(iter(said.get, None), timeout=PATIENCE)
    assert next(answers) == b"HELLO"
    said.put(b"again")
    assert next(answers) == b"AGAIN"
    said.put(b"bye")  # and no end of what the client sends
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK
    said.put(None)


def test_an_error_is_the_services_own(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        unary(channel, "fail")(b"not today", timeout=PATIENCE)
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "not today"
    assert ("reason", "a rule") in failed.value.trailing_metadata()


def test_a_deadline_ends_the_call_at_the_service_too(service: str) -> None:
    with gateway({"s-1": service}) as (channel, plane):
        with pytest.raises(grpc.RpcError) as failed:
            unary(channel, "hang")(b"", timeout=0.3)
        assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: plane.state()["services"]["s"]["in_flight"] == 0)


def test_calls_at_once_share_few_connections(service: str) -> None:
    with gateway({"s-1": service}, attempt_timeout_seconds=20.0) as (channel, _):
        with ThreadPoolExecutor(32) as pool:
            calls = [
                pool.submit(unary(channel, "echo"), b"%d" % n, timeout=PATIENCE) for n in range(400)
            ]
            assert [call.result() for call in calls] == [b"%d" % n for n in range(400)]
        port = int(service.rpartition(":")[2])
        assert 1 <= established(port) <= 8  # of this gateway and of the other tests' one


def established(port: int) -> int:
    """Connections to a port of loopback, from either family's table."""
    wanted = f":{port:04X}"
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(1 for line in lines if line[2].endswith(wanted) and line[3] == "01")


def test_an_instance_that_is_killed_fails_what_it_may_have_done_and_nothing_else() -> None:
    with ExitStack() as stack:
        first, process = stack.enter_context(instance("s-1"))
        second, _ = stack.enter_context(instance("s-2"))
        channel, plane = stack.enter_context(
            gateway({"s-1": first}, attempt_timeout_seconds=20.0, retry_budget=10.0)
        )
        hanging = unary(channel, "hang").future(b"", timeout=PATIENCE)
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        plane.set_endpoints("s", [("s-1", first), ("s-2", second)])
        process.kill()
        # Nobody knows what became of it.
        hung = hanging.exception(PATIENCE)
        assert isinstance(hung, grpc.RpcError)
        assert hung.code() == grpc.StatusCode.UNAVAILABLE
        # What can't have reached it is sent to the other.
        for _ in range(20):
            _, call = unary(channel, "echo").with_call(b"x", timeout=PATIENCE)
            assert ("instance", "s-2") in call.trailing_metadata()


def test_a_service_that_is_away_is_told_in_words_of_grpc() -> None:
    with gateway({}) as (channel, _):
        with pytest.raises(grpc.RpcError) as failed:
            unary(channel, "echo")(b"", timeout=PATIENCE)
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert failed.value.details() == "no instance of the service is there"
