"""Instances that are checked by the health protocol of gRPC, which a real server of it speaks."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from test_attempts import endpoints, until

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import HealthCheck, Upstream

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
HEALTH = "grpc.health.v1.Health"


def schema() -> tuple[type[Message], type[Message]]:
    """The messages of the protocol, as protobuf's own library makes them of its schema."""
    field = descriptor_pb2.FieldDescriptorProto
    package = "grpc.health.v1"
    status = descriptor_pb2.EnumDescriptorProto(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        status.value.add(name=name, number=number)
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package=package, syntax="proto3")
    optional = field.LABEL_OPTIONAL
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=optional)
    response = file.message_type.add(name="HealthCheckResponse", enum_type=[status])
    response.field.add(
        name="status",
        number=1,
        type=field.TYPE_ENUM,
        label=optional,
        type_name=f".{package}.HealthCheckResponse.ServingStatus",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"{package}.{each.name}") for each in file.message_type]
    return message_factory.GetMessageClass(found[0]), message_factory.GetMessageClass(found[1])


Request, Response = schema()


class Checked:
    """A server of gRPC that says of its services what it is told to."""

    def __init__(self, statuses: dict[str, int] | None) -> None:
        """Without `statuses` it has no health protocol."""
        self.statuses = statuses
        self.asked: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.server = grpc.server(ThreadPoolExecutor(4))
        echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        handlers = [grpc.method_handlers_generic_handler("test.Service", {"echo": echo})]
        if statuses is not None:
            check = grpc.unary_unary_rpc_method_handler(
                self.check, Request.FromString, Response.SerializeToString
            )
            handlers.append(grpc.method_handlers_generic_handler(HEALTH, {"Check": check}))
        self.server.add_generic_rpc_handlers(tuple(handlers))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def check(self, request: Any, context: grpc.ServicerContext) -> Message:
        self.asked.append(request.service)
        self.metadata.append({name: str(value) for name, value in context.invocation_metadata()})
        assert self.statuses is not None
        if request.service not in self.statuses:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Response(status=self.statuses[request.service])


@contextmanager
def checking(
    *servers: Checked, service: str = ""
) -> Generator[tuple[grpc.UnaryUnaryMultiCallable, DataPlane], None, None]:
    health = HealthCheck(grpc=service, interval_seconds=0.1, timeout_seconds=20.0)
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(Route(path="/*", methods=("POST",), service="s", identity=False),),
        services={"s": Upstream(protocol="h2c", health=health)},
    )
    plane = DataPlane(config, access_log=None, admin_credential="c")
    plane.set_endpoints("s", [(f"s-{number}", each.address) for number, each in enumerate(servers)])
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(plane.listen, options) as channel:
        yield channel.unary_unary("/test.Service/echo"), plane
    plane.drain(5.0)
    for each in servers:
        each.server.stop(0)


def states(plane: DataPlane) -> list[str]:
    return [each["health"] for each in endpoints(plane).values()]


def trouble(plane: DataPlane, instance: str = "s-0") -> str | None:
    return endpoints(plane)[instance]["health_trouble"]


def test_an_instance_that_does_not_serve_is_not_asked_until_it_does() -> None:
    sick, fine = Checked({"": SERVING}), Checked({"": SERVING})
    with checking(sick, fine) as (echo, plane):
        until(lambda: states(plane) == ["healthy", "healthy"])
        sick.statuses = {"": NOT_SERVING}
        until(lambda: states(plane) == ["unhealthy", "healthy"])
        assert trouble(plane) == "answered NOT_SERVING"
        assert [echo(b"a", timeout=20.0) for _ in range(10)] == [b"a"] * 10
        assert plane.state()["services"]["s"]["endpoints"][0]["breaker"] == "closed"
        sick.statuses = {"": SERVING}
        until(lambda: states(plane) == ["healthy", "healthy"])
        assert trouble(plane) is None
    assert set(sick.asked) == {""}, "the whole server"
    assert sick.metadata[0]["user-agent"] == "counterfoil-gateway-health"


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"shop.Ledger": UNKNOWN}, "answered UNKNOWN"),
        ({"shop.Ledger": SERVICE_UNKNOWN}, "answered SERVICE_UNKNOWN"),
        ({"": SERVING}, "the server knows no such service (NOT_FOUND)"),
        (None, "the server has no health protocol (UNIMPLEMENTED)"),
    ],
)
def test_whatever_is_not_serving_puts_an_instance_out(
    statuses: dict[str, int] | None, said: str
) -> None:
    server = Checked(statuses)
    with checking(server, service="shop.Ledger") as (echo, plane):
        until(lambda: states(plane) == ["unhealthy"])
        assert trouble(plane) == said
        with pytest.raises(grpc.RpcError) as failed:
            echo(b"a", timeout=20.0)
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        if server.statuses is not None:
            assert set(server.asked) == {"shop.Ledger"}
            server.statuses["shop.Ledger"] = SERVING
            until(lambda: states(plane) == ["healthy"])
            assert echo(b"a", timeout=20.0) == b"a"


def test_a_server_that_is_gone_fails_its_probe() -> None:
    server = Checked({"": SERVING})
    with checking(server) as (_, plane):
        until(lambda: states(plane) == ["healthy"])
        server.server.stop(0).wait()
        until(lambda: states(plane) == ["unhealthy"])
        assert trouble(plane)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "write what stands in a request"),
        ({"path": "/a", "grpc": ""}, "set one or the other"),
        ({"grpc": "", "statuses": (200,)}, "set one or the other"),
        ({"grpc": "a/b"}, "no name of a service"),
        ({"grpc": "a" * 128}, "no name of a service"),
    ],
)
def test_a_check_that_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HealthCheck(**settings)


def test_the_protocol_of_grpc_needs_http2() -> None:
    with pytest.raises(ValueError, match="health by grpc needs HTTP/2"):
        Upstream(health=HealthCheck(grpc=""))
