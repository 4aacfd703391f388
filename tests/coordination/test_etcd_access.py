"""Who may use etcd, and what a wrong address or wrong credentials are answered with, at once."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cluster import Member, ask, members

from counterfoil.coordination import CoordinationError, EtcdClient, Refused, Unavailable
from counterfoil.engines.checks import Level, check
from counterfoil.gateway.tls import development_certificate

PASSWORD = "only-in-this-test"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """etcd with authentication: `shop` may use the keys of the application of that name."""
    with members(tmp_path_factory.mktemp("guarded"), 1) as (member,):

        def auth(verb: str, **question: Any) -> None:
            ask(member.address, f"auth/{verb}", **question)

        prefix = {"key": encoded("/counterfoil/shop/"), "range_end": encoded("/counterfoil/shop0")}
        auth("role/add", name="shop")
        auth("role/grant", name="shop", perm={"permType": "READWRITE", **prefix})
        for name in ("root", "shop"):
            auth("user/add", name=name, password=PASSWORD)
        auth("user/grant", user="root", role="root")
        auth("user/grant", user="shop", role="shop")
        auth("enable")
        yield member


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def with_user(member: Member, user: str) -> str:
    return member.address.replace("http://", f"http://{user}@")


def test_a_user_with_a_role_on_its_application_needs_no_more(guarded: Member) -> None:
    client = EtcdClient(with_user(guarded, "shop"), "shop", password=PASSWORD)
    lease = client.grant(5.0)
    written = client.put("/a", "1", lease)
    stop = threading.Event()
    assert next(client.watch("/", stop)) == [written]
    assert client.keep_alive(lease.id, timeout=20.0)
    lease.revoke()
    assert client.range("/") == []


def test_a_user_is_known_again_after_etcd_has_forgotten_all_tokens(guarded: Member) -> None:
    client = EtcdClient(with_user(guarded, "shop"), "shop", password=PASSWORD)
    stop = threading.Event()
    snapshots = client.watch("/", stop)
    before = next(snapshots)
    guarded.kill()
    guarded.start()
    guarded.wait()
    written = client.put("/b", "1")
    assert written is not None
    while written not in (after := next(snapshots)):
        continue
    assert len(after) == len(before) + 1


@pytest.mark.parametrize(
    ("user", "password", "application", "hint"),
    [
        ("", "", "shop", "ETCD_PASSWORD"),
        ("shop", "wrong", "shop", "ETCD_PASSWORD"),
        ("nobody", PASSWORD, "shop", "ETCD_PASSWORD"),
        ("shop", PASSWORD, "other", "role read and write on the prefix"),
    ],
)
def test_who_may_not_is_told_what_to_do_and_no_secret(
    guarded: Member, user: str, password: str, application: str, hint: str
) -> None:
    address = with_user(guarded, user) if user else guarded.address
    client = EtcdClient(address, application, password=password)
    with pytest.raises(Refused) as refused:
        client.range("/")
    assert hint in refused.value.hint
    assert PASSWORD not in str(refused.value) and "wrong" not in str(refused.value)
    with pytest.raises(Refused):
        client.put("/a", "1")
    with pytest.raises(Refused):
        next(client.watch("/", threading.Event()))


def test_a_check_is_let_in_with_the_same_user_and_password(guarded: Member) -> None:
    address = with_user(guarded, "shop")
    found = check("etcd", address, PASSWORD, 0.0)
    assert [each.setting for each in found] == ["members"], "it could look at everything"
    (refused,) = check("etcd", address, "wrong", 0.0)
    assert refused.level is Level.BREAKS
    assert "ETCD_PASSWORD" in refused.remedy
    assert "wrong" not in str(refused)


def test_a_user_where_etcd_has_no_authentication_is_an_error(tmp_path: Path) -> None:
    with members(tmp_path, 1) as (member,):
        client = EtcdClient(with_user(member, "shop"), "shop", password=PASSWORD)
        with pytest.raises(Refused, match="authentication is not enabled") as refused:
            client.range("/")
        assert "leave the user out" in refused.value.hint


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:2379",
        "redis://127.0.0.1:2379",
        "http://",
        "http://127.0.0.1:no",
        "http://127.0.0.1",
        "http://[127.0.0.1:1",
        "http://a@127.0.0.1:1,http://b@127.0.0.1:2",
        "http://127.0.0.1:1,,http://127.0.0.1:2",
    ],
)
def test_an_address_that_can_not_be_one_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(Refused) as refused:
        EtcdClient(address, "shop")
    assert refused.value.hint


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    for address in (f"http://shop:{PASSWORD}@127.0.0.1:2379", f"http://shop:{PASSWORD}@[::1:2379"):
        with pytest.raises(Refused) as refused:
            EtcdClient(address, "shop")
        assert PASSWORD not in str(refused.value)
        assert "ETCD_PASSWORD" in refused.value.hint


def test_something_else_than_etcd_at_the_address_is_an_error_at_once() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = EtcdClient(f"http://127.0.0.1:{server.server_port}", "shop")
        with pytest.raises(CoordinationError, match="etcd at http://127"):
            client.range("/")
        server.shutdown()


def test_tls_trusts_the_roots_of_the_system_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate, key = development_certificate(tmp_path / "tls", datetime.now(UTC))
    files = ["--cert-file", str(certificate), "--key-file", str(key)]
    with members(tmp_path, 1, *files, scheme="https") as (member,):
        with pytest.raises(Unavailable, match="certificate"):
            EtcdClient(member.address, "shop").range("/")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        client = EtcdClient(member.address, "shop")
        written = client.put("/a", "1")
        assert client.range("/") == [written]


def test_a_full_etcd_says_so(tmp_path: Path) -> None:
    with members(tmp_path, 1, "--quota-backend-bytes=1000000") as (member,):
        client = EtcdClient(member.address, "shop")
        with pytest.raises(Refused, match="space exceeded") as refused:
            while True:
                client.put("/a", "." * 100_000)
        assert "alarm disarm" in refused.value.hint
        with contextlib.suppress(Refused):
            client.put("/a", "")
        assert len(client.range("/")) == 1
