"""Leases, leaders and ids over a node's own state, with the time passed in."""

from pathlib import Path

from counterfoil.coordination import KeyValue
from counterfoil.coordination.node import Node


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
