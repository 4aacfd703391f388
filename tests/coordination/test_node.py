"""Leases, leaders and ids over a node's own state, with the time passed in."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from counterfoil.coordination import KeyValue
from counterfoil.coordination.node import Node
from counterfoil.coordination.server import application


def test_a_key_goes_with_its_lease_and_not_before(tmp_path: Path) -> None:
    node = Node(tmp_path / "node.db", 0.0)
    lease = node.grant(3.0, 0.0)
    assert node.put("/leaders/x", "a", lease, if_revision=0) is not None
    assert node.keep_alive(lease, 2.0)
    assert not node.expire(4.9)
    assert node.put("/leaders/x", "b", if_revision=0) is None
    assert node.expire(5.0)
    assert node.range("/leaders/") == []
    assert not node.keep_alive(lease, 5.1)


def test_each_leader_has_a_higher_token_than_the_last(tmp_path: Path) -> None:
    node = Node(tmp_path / "node.db", 0.0)
    tokens: list[int] = []
    for term in range(5):
        lease = node.grant(1.0, float(term))
        found = node.put("/leaders/x", str(term), lease, if_revision=0)
        assert isinstance(found, KeyValue)
        tokens.append(found.create_revision)
        node.revoke(lease)
    assert tokens == sorted(set(tokens))


def test_what_was_acknowledged_is_there_after_a_restart_and_leases_start_anew(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path / "node.db", 0.0)
    lease = node.grant(3.0, 0.0)
    node.put("/a", "1", lease)
    node.put("/b", "2")
    revision = node.revision
    again = Node(tmp_path / "node.db", 100.0)
    assert [key.value for key in again.range("/")] == ["1", "2"]
    assert again.revision == revision
    assert not again.expire(102.9)
    assert again.expire(103.0)
    assert [key.key for key in again.range("/")] == ["/b"]


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@contextmanager
def full(path: Path) -> Iterator[None]:
    """No write to the node's file succeeds for a while, as on a full disk."""
    with sqlite3.connect(path) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON revision BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    try:
        yield
    finally:
        with sqlite3.connect(path) as other:
            other.execute("DROP TRIGGER full")
        other.close()


def test_a_lease_that_could_not_be_ended_is_ended_later(tmp_path: Path) -> None:
    node = Node(tmp_path / "node.db", 0.0)
    lease = node.grant(3.0, 0.0)
    node.put("/leaders/x", "a", lease, if_revision=0)
    with full(tmp_path / "node.db"):
        with pytest.raises(sqlite3.Error, match="full"):
            node.expire(4.0)
        assert [each.key for each in node.range("/leaders/")] == ["/leaders/x"]
        assert not node.keep_alive(lease, 4.0)
        with pytest.raises(sqlite3.Error, match="full"):
            node.put("/leaders/y", "a")
    assert node.expire(5.0)
    assert node.range("/") == []
    assert node.put("/leaders/x", "b", node.grant(3.0, 5.0), if_revision=0) is not None


def test_the_node_goes_on_ending_leases_after_an_error(tmp_path: Path) -> None:
    authorization = {"authorization": "Bearer secret"}
    with TestClient(application(tmp_path / "node.db", "secret"), headers=authorization) as client:
        lease = client.post("/v1/grant", json={"ttl": 0.2}).json()["lease"]
        key = {"key": "/leaders/x", "value": "a", "lease": lease, "if_revision": 0}
        assert client.post("/v1/put", json=key).json()["key"]
        with full(tmp_path / "node.db"), capture_logs() as told:
            until(lambda: any("could not be ended" in each["event"] for each in told))
        until(lambda: not client.post("/v1/read", json={"prefix": "/"}).json()["keys"])
