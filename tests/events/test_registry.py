"""A registry that speaks Confluent's REST API: a real one, and one that answers as it likes."""

import base64
import datetime
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import (
    ConfigCompatibilityLevel,
    SchemaRegistryClient,
    ServerConfig,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from counterfoil.certificates import certify
from counterfoil.engines import RunningEngine
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    ConfluentRegistry,
    DeadLetters,
    EmbeddedEvents,
    EventsError,
    IncompatibleSchema,
    RegistryUnavailable,
    Topic,
    UndecodableEvent,
)
from counterfoil.events.schemas import Compatibility, Format, Schema, wire
from counterfoil.events.topics import declare_schemas

from .payments import FORMATS, Line
from .test_schemas import ADDED, V1, declared, handled, send, version

each_format = pytest.mark.parametrize("kind", FORMATS)


class Server:
    """The real server, with subjects of one application."""

    def __init__(self, engine: RunningEngine, application: str) -> None:
        self.engine = engine
        self.application = application
        self.registry = ConfluentRegistry(engine.address, None, application)
        self.client = SchemaRegistryClient({"url": engine.address})

    def topic(
        self, event: Any, kind: Format, compatibility: Compatibility = "BACKWARD"
    ) -> Topic[Any]:
        topic: Topic[Any] = Topic("sales", event, format=kind, compatibility=compatibility)
        declare_schemas([topic], self.registry)
        return topic


@pytest.fixture
def server(
    engine: Callable[[str], RunningEngine], request: pytest.FixtureRequest
) -> Iterator[Server]:
    made = Server(engine("registry"), f"app-{abs(hash(request.node.nodeid))}")
    yield made
    made.client.__exit__()


@each_format
def test_a_schema_is_registered_under_its_topics_subject_once(server: Server, kind: Format) -> None:
    first, second = server.topic(V1, kind), server.topic(V1, kind)
    value = first.encode(V1(1, "a"))
    assert second.encode(V1(1, "a")) == value
    subject = f"{server.application}.sales-value"
    found = server.client.get_latest_version(subject)
    assert (found.schema_id, found.version) == (wire.schema_id_of(value), 1)
    assert found.schema.schema_type == kind.upper()
    server.topic(ADDED, kind)
    assert server.client.get_versions(subject) == [1, 2]
    server.topic(V1, kind)
    assert server.client.get_versions(subject) == [1, 2], "an older version is taken as it is"


@each_format
def test_versions_before_and_after_are_read_by_the_ids_of_the_registry(
    server: Server, kind: Format
) -> None:
    old, new = server.topic(V1, kind), server.topic(ADDED, kind)
    assert new.decode(old.encode(V1(1, "a"))) == ADDED(1, "a", 5)
    assert old.decode(new.encode(ADDED(1, "a", 7))) == V1(1, "a")
    with pytest.raises(UndecodableEvent, match="knows no schema 2000000000"):
        old.decode(wire.header(2_000_000_000) + b"x")


@each_format
def test_an_incompatible_schema_is_refused_before_the_registry_is_told(
    server: Server, kind: Format
) -> None:
    server.topic(V1, kind)
    with pytest.raises(IncompatibleSchema, match="tip: has no default"):
        server.topic(version(("id", int), ("note", str), ("tip", int)), kind)
    assert server.client.get_versions(f"{server.application}.sales-value") == [1]


def test_the_registrys_own_rule_holds_too(server: Server) -> None:
    server.topic(V1, "avro")
    subject = f"{server.application}.sales-value"
    server.client.set_config(subject, ServerConfig(ConfigCompatibilityLevel.BACKWARD))
    with pytest.raises(IncompatibleSchema, match="answered 409"):
        server.topic(version(("id", int), ("note", str), ("tip", int)), "avro", "NONE")


def test_confluents_own_clients_read_and_write_what_ours_do(server: Server) -> None:
    topic = server.topic(Line, "avro")
    context = SerializationContext(f"{server.application}.sales", MessageField.VALUE)
    read = AvroDeserializer(server.client)  # type: ignore[call-arg]
    assert read(topic.encode(Line("a", 2)), context) == {"sku": "a", "number": 2, "gift": False}
    schema = server.client.get_latest_version(f"{server.application}.sales-value").schema
    write = AvroSerializer(server.client, schema)  # type: ignore[call-arg]
    theirs = write({"sku": "b", "number": 3, "gift": True}, context)
    assert theirs is not None
    assert topic.decode(theirs) == Line("b", 3, True)


def test_a_message_is_read_with_nothing_but_what_is_registered(server: Server) -> None:
    data = server.topic(Line, "protobuf").encode(Line("a", 2))
    schema = server.client.get_schema(wire.schema_id_of(data)).schema_str
    assert schema is not None
    file = FileDescriptorProto.FromString(base64.standard_b64decode(schema))
    pool = DescriptorPool()
    pool.Add(file)
    kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("Line"))
    assert data[5:6] == b"\0", "the first message of its file"
    found = kind.FromString(data[6:])
    assert (found.sku, found.number, found.HasField("gift")) == ("a", 2, True)


@each_format
def test_the_embedded_log_may_have_its_schemas_in_a_registry(
    server: Server, kind: Format, tmp_path: Path
) -> None:
    events = EmbeddedEvents(tmp_path, registry=server.registry)
    topic = declared(events, V1, kind)
    good = topic.encode(V1(1, "a"))
    send(events, wire.header(2_000_000_000) + good[5:], good)
    assert handled(events, topic, 2) == [V1(1, "a")]
    assert [each.event_id for each in DeadLetters(events.pipelines()).list()] == [0]


@contextmanager
def answering(
    status: int, document: Any, *, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """A server that gives one answer to everything; yields its address, and what it was asked."""
    asked: list[tuple[str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        found.socket = tls.wrap_socket(found.socket, server_side=True)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{found.server_port}", asked
    finally:
        found.shutdown()
        found.server_close()


def test_the_password_is_sent_and_is_in_no_error_and_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with answering(401, {"error_code": 401, "message": "Unauthorized"}) as (place, asked):
        registry = ConfluentRegistry(f"http://shop@{place}", "kept secret", "app")
        with pytest.raises(RegistryUnavailable, match="REGISTRY_PASSWORD") as refused:
            registry.schema(1)
    given = base64.b64encode(b"shop:kept secret").decode()
    assert {header for _, _, header in asked} == {f"Basic {given}"}
    told = caplog.text + str(refused.value) + repr(refused.value.__context__) + repr(registry)
    assert "kept secret" not in told and given not in told


def test_a_registry_is_known_by_the_authority_that_is_named(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    ca = certify(tmp_path / "ours", ["registry"], now, authority="ours")
    other = certify(tmp_path / "others", ["registry"], now, authority="others")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ca.with_name("registry.pem"), ca.with_name("registry.key"))
    found = {"schema": '"long"', "schemaType": "AVRO"}
    with answering(200, found, tls=tls) as (place, asked):

        def schema(ca: Path | None) -> Schema | None:
            return ConfluentRegistry(f"https://shop@{place}", "hush", "app", ca=ca).schema(1)

        assert schema(ca) == Schema("AVRO", '"long"')
        told = len(asked)
        for unknown in (other, None):
            with pytest.raises(RegistryUnavailable, match="set ca of \\[registry\\]"):
                schema(unknown)
        for broken in (tmp_path / "nowhere.pem", ca.with_name("registry.key")):
            with pytest.raises(EventsError, match="correct ca of \\[registry\\]"):
                schema(broken)
        assert len(asked) == told, "a registry that nobody vouches for is told no password"


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, RegistryUnavailable), (429, RegistryUnavailable), (422, EventsError)],
)
def test_what_the_registry_answers_becomes_an_error_that_says_it(
    status: int, error: type[Exception]
) -> None:
    schema = Schema("AVRO", '"long"')
    with (
        answering(status, {"error_code": status, "message": "so it is"}) as (place, asked),
        pytest.raises(error, match=f"answered {status}: so it is"),
    ):
        ConfluentRegistry(f"http://{place}", None, "app").register("t", schema, after=None)
    assert asked[0][:2] == ("POST", "/subjects/app.t-value/versions?normalize=False")
    assert len(asked) <= 3, "it is tried a few times"


def test_a_registry_that_does_not_answer_is_given_up_soon() -> None:
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        ConfluentRegistry("http://127.0.0.1:1", None, "app").schema(1)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("address", ["127.0.0.1:8081", "http://user:password@127.0.0.1:8081"])
def test_an_address_that_holds_a_password_is_refused_without_telling_it(address: str) -> None:
    with pytest.raises(CounterfoilError, match="REGISTRY_PASSWORD") as refused:
        ConfluentRegistry(address, None, "app")
    assert "user:password" not in str(refused.value)


def test_a_schema_of_another_kind_is_none_of_ours() -> None:
    with answering(200, {"schema": "{}", "schemaType": "JSON"}) as (place, _):
        assert ConfluentRegistry(f"http://{place}", None, "app").schema(1) is None


def test_a_killed_registry_comes_back_with_its_schemas(server: Server) -> None:
    topic = server.topic(V1, "avro")
    ahead = server.topic(ADDED, "avro").encode(ADDED(1, "a", 7))
    server.engine.kill()
    try:
        assert topic.decode(topic.encode(V1(1, "a"))) == V1(1, "a"), "its own schema is known"
        with pytest.raises(RegistryUnavailable):
            topic.decode(ahead)
    finally:
        server.engine.start()
    assert topic.decode(ahead) == V1(1, "a")
