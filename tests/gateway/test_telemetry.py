"""Traces go to a collector, metrics to whoever holds the credential; neither grows with clients."""

import http.server
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from sharing import until
from upstream import Asked, Server, sized

from counterfoil.gateway.config import GatewayConfig, Route, Telemetry
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

PATIENCE_SECONDS = 20.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@dataclass
class Collector:
    """Takes OTLP over HTTP in JSON, unless it answers with a `refusal`: 503 while it is away."""

    spans: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    services: set[str] = field(default_factory=set[str])
    refusal: int | None = None
    server: http.server.ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.refusal or 200
                if self.path == "/v1/traces" and status == 200:
                    for each in json.loads(body)["resourceSpans"]:
                        (service,) = each["resource"]["attributes"]
                        collector.services.add(service["value"]["stringValue"])
                        for scope in each["scopeSpans"]:
                            collector.spans += scope["spans"]
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                """Keep the tests' output quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def until(self, number: int) -> list[dict[str, Any]]:
        """The spans, once there are as many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.spans) < number:
            assert time.monotonic() < deadline, f"{len(self.spans)} of {number} spans"
            time.sleep(0.02)
        return self.spans


def attributes(span: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def paths(collector: Collector) -> Counter[str]:
    return Counter(attributes(span)["url.path"] for span in list(collector.spans))


def answer(asked: Asked, connection: socket.socket) -> bool | None:
    if "/broken" in asked.line:
        return False
    if "/slow" in asked.line:
        time.sleep(0.2)
    connection.sendall(sized(msgspec.json.encode(asked.headers)))
    return None


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    yield server
    server.close()


@contextmanager
def gateway(
    server: Server, telemetry: Telemetry, access_log: Path | None = None
) -> Iterator[tuple[httpx2.Client, DataPlane]]:
    everything = Route(path="/*", methods=("GET",), service="s", identity=False)
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            routes=(everything,),
            services={"s": Upstream(attempts=1, breaker_failures=1_000_000)},
            telemetry=telemetry,
        ),
        access_log=access_log,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", server.address)])
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client, plane
    plane.drain(1.0)


def metrics(plane: DataPlane, accept: str = "*/*") -> str:
    headers = {"authorization": "Bearer c", "accept": accept}
    return httpx2.get(f"http://{plane.admin}/metrics", headers=headers).text


def test_a_trace_goes_on_through_the_gateway_and_into_its_log(
    server: Server, collector: Collector, tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    telemetry = Telemetry(otlp_url=collector.url, sample_ratio=1.0)
    with gateway(server, telemetry, log) as (client, _):
        given = {"traceparent": f"00-{TRACE}-{PARENT}-00", "x-request-id": "r1"}
        seen = client.get("/a?b=1", headers=given).json()
        (span,) = collector.until(1)
        assert (span["traceId"], span["parentSpanId"]) == (TRACE, PARENT)
        assert seen["traceparent"] == f"00-{TRACE}-{span['spanId']}-01"
        assert json.loads(log.read_text())["trace_id"] == TRACE
        assert span["name"] == "GET /*"
        told = attributes(span)
        assert (told["url.path"], told["counterfoil.request_id"]) == ("/a", "r1")
        assert (told["counterfoil.instance"], told["http.response.status_code"]) == ("s-1", "200")
        assert 0 < int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) < 20e9
        assert collector.services == {"counterfoil-gateway"}

        state = {"tracestate": "them=1"}
        assert client.get("/a", headers=given | state).json()["tracestate"] == "them=1"
        broken = {"traceparent": f"00-{TRACE}-{PARENT}"}
        assert "tracestate" not in client.get("/a", headers=broken | state).json()

        begun = client.get("/a").json()["traceparent"]
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", begun)
        assert begun.split("-")[1] != TRACE


def test_every_error_and_every_slow_request_is_told_of_at_one_percent(
    server: Server, collector: Collector
) -> None:
    telemetry = Telemetry(otlp_url=collector.url, sample_ratio=0.01, slow_ms=150)
    with gateway(server, telemetry) as (client, plane):
        sent: Counter[str] = Counter()
        for number in range(600):
            path = "/broken" if number % 6 == 0 else "/slow" if number % 200 == 1 else "/fine"
            client.get(path)
            sent[path] += 1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (told := paths(collector))["/broken"] < 100 or told["/slow"] < 3:
            assert time.monotonic() < deadline, told
            time.sleep(0.02)
        assert (sent["/broken"], sent["/slow"]) == (told["/broken"], told["/slow"]) == (100, 3)
        assert told["/fine"] < 40, "about 5 of 497"
        assert all(
            span["status"]["code"] == 2
            for span in collector.spans
            if attributes(span)["url.path"] == "/broken"
        )
        assert plane.state()["traces"]["dropped"] == 0


def test_a_collector_that_is_away_costs_no_request_and_gets_what_waited(
    server: Server, collector: Collector
) -> None:
    collector.refusal = 503
    with gateway(server, Telemetry(otlp_url=collector.url, sample_ratio=1.0)) as (client, plane):
        assert client.get("/a").status_code == 200
        while not (state := plane.state()["traces"])["failures"]:
            time.sleep(0.02)
        assert "503" in state["trouble"]
        assert client.get("/b").status_code == 200
        collector.refusal = None
        spans = collector.until(2)
        assert {attributes(span)["url.path"] for span in spans} == {"/a", "/b"}


def test_a_batch_that_the_collector_refuses_keeps_no_other_from_it(
    server: Server, collector: Collector
) -> None:
    collector.refusal = 400
    with gateway(server, Telemetry(otlp_url=collector.url, sample_ratio=1.0)) as (client, plane):
        client.get("/poison")
        until(lambda: plane.state()["traces"]["dropped"] == 1)
        assert "400" in plane.state()["traces"]["trouble"]
        collector.refusal = None
        client.get("/good")
        assert {attributes(span)["url.path"] for span in collector.until(1)} == {"/good"}
        until(lambda: plane.state()["traces"]["trouble"] is None)


def test_a_method_that_a_client_has_made_up_names_no_span(
    server: Server, collector: Collector
) -> None:
    with gateway(server, Telemetry(otlp_url=collector.url, sample_ratio=1.0)) as (client, _):
        for method in ("BREW", "DELETE", "GET"):
            client.request(method, "/a")
        spans = collector.until(3)
    assert {span["name"] for span in spans} == {"HTTP", "DELETE", "GET /*"}
    told = [attributes(span) for span in spans]
    assert {each["http.request.method"] for each in told} == {"_OTHER", "DELETE", "GET"}
    assert {each.get("http.request.method_original") for each in told} == {"BREW", None}
    assert {each["url.scheme"] for each in told} == {"http"}


def test_what_is_not_exported_yet_is_at_the_end(server: Server, collector: Collector) -> None:
    with gateway(server, Telemetry(otlp_url=collector.url, sample_ratio=1.0)) as (client, plane):
        client.get("/last")
    del plane
    assert attributes(collector.until(1)[0])["url.path"] == "/last"


def test_no_number_of_clients_makes_more_series(server: Server) -> None:
    telemetry = Telemetry(tenants=("aurora",))
    with gateway(server, telemetry) as (client, plane):
        client.get("/0")
        before = series(metrics(plane))
        for number in range(300):
            headers = {"user-agent": f"u{number}", "x-request-id": f"r{number}"}
            client.get(f"/users/{number}?session={number}", headers=headers)
        assert series(metrics(plane)) == before
        assert (
            'counterfoil_gateway_tenant_requests_total{tenant="aurora",status="2xx"} 0'
            in metrics(plane)
        )
        assert (
            'counterfoil_gateway_tenant_requests_total{tenant="other",status="2xx"} 301'
            in metrics(plane)
        )


def series(text: str) -> set[str]:
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_metrics_are_well_formed(server: Server, accept: str) -> None:
    with gateway(server, Telemetry()) as (client, plane):
        client.get("/a")
        text = metrics(plane, accept)
        is_open = "openmetrics" in accept
        lines = text.splitlines()
        assert (lines[-1] == "# EOF") == is_open
        typed: dict[str, str] = {}
        for line in lines:
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name not in typed, "a family comes once"
                typed[name] = kind
        seen: set[str] = set()
        for line in lines:
            if line.startswith("#"):
                continue
            found = re.fullmatch(r'([a-z_]+)(\{([a-z_]+="[^"\n]*",?)*\})? [0-9.e+-]+', line)
            assert found is not None, line
            assert line.rsplit(" ", 1)[0] not in seen, "a series comes once"
            seen.add(line.rsplit(" ", 1)[0])
            name = re.sub(r"_(bucket|sum|count)$", "", found[1])
            name = name.removesuffix("_total") if is_open else name
            assert name in typed, line
        assert 'counterfoil_gateway_requests_total{route="/*",status="2xx"} 1' in lines
