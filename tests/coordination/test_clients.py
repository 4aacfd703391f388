"""Leadership, machine numbers, registration and watches against a real node."""

import threading

import pytest

from counterfoil.coordination import (
    Client,
    ClockWentBack,
    Instance,
    Leadership,
    Lease,
    LeaseLost,
    MachineIds,
    Membership,
    Registry,
    Snowflake,
    Unavailable,
    connect,
    leaders,
)
from counterfoil.coordination.snowflake import WINDOW_MS

NOW_MS = 1_800_000_000_000


def test_one_leads_and_the_next_has_a_higher_token(client: Client) -> None:
    stop = threading.Event()
    first = Leadership(client, "relay", "a", ttl_seconds=2.0).campaign(stop)
    assert first is not None
    assert [leader.candidate for leader in leaders(client)] == ["a"]
    found: list[int] = []

    def second() -> None:
        lease = Leadership(client, "relay", "b", ttl_seconds=2.0).campaign(stop)
        assert lease is not None
        found.append(lease.fencing_token)
        lease.resign()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not found, "the first one still leads"
    first.resign()
    waiting.join(10)
    assert found[0] > first.fencing_token
    assert not first.held()


def test_two_generators_never_share_a_number_and_ids_grow(client: Client) -> None:
    ids = MachineIds(client)
    generators = [Snowflake(ids.claim(name, NOW_MS), lambda: NOW_MS) for name in ("a", "b")]
    found = [generator.next_id() for _ in range(5_000) for generator in generators]
    assert len(set(found)) == len(found)
    assert found[::2] == sorted(found[::2])
    assert sorted(ids.holders().values()) == ["a", "b"]


def test_a_bound_that_somebody_else_moved_ends_the_use_of_a_number(client: Client) -> None:
    machine = MachineIds(client).claim("a", NOW_MS)
    client.put(f"/machine-bounds/{machine.number}", str(NOW_MS + 5))
    with pytest.raises(LeaseLost):
        machine.extend(NOW_MS)
    assert not machine.held()


def test_the_next_holder_starts_above_the_bound_of_the_last(client: Client) -> None:
    first = MachineIds(client).claim("a", NOW_MS)
    last_id = Snowflake(first, lambda: NOW_MS).next_id()
    for number in range(1024):
        if number != first.number:
            client.put(f"/machines/{number}", "taken")
    first.release()
    second = MachineIds(client).claim("b", NOW_MS)
    assert second.number == first.number
    with pytest.raises(ClockWentBack):  # its predecessor might still be using this millisecond
        Snowflake(second, lambda: NOW_MS).next_id()
    assert Snowflake(second, lambda: NOW_MS + 2 * WINDOW_MS).next_id() > last_id


def test_a_watch_sees_who_comes_and_who_goes(client: Client) -> None:
    stop = threading.Event()
    snapshots = Registry(client).watch(stop)
    assert next(snapshots) == {}
    instance = Instance("payments", "payments-1", "127.0.0.1:1")
    membership = Membership(client, instance, ttl_seconds=2.0)
    while not (seen := next(snapshots)):
        continue
    assert seen == {"payments": [instance]}
    membership.close()
    while seen := next(snapshots):
        continue
    stop.set()


def test_who_leaves_while_a_lease_is_being_granted_has_left(address: str, credential: str) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow(Client):
        def grant(self, ttl_seconds: float) -> Lease:
            asked.set()
            assert answer.wait(20)
            return super().grant(ttl_seconds)

    client = Slow(address, credential)
    instance = Instance("payments", "payments-1", "127.0.0.1:1")
    membership = Membership(client, instance, ttl_seconds=60.0)
    assert asked.wait(20)
    leaving = threading.Thread(target=membership.close, daemon=True)
    leaving.start()
    leaving.join(0.2)
    assert leaving.is_alive(), "it waits for the lease that it is to give back"
    answer.set()
    leaving.join(20)
    assert not leaving.is_alive()
    assert Registry(client).instances() == []


def test_without_the_credential_nothing_is_told(address: str) -> None:
    with pytest.raises(Unavailable):
        connect(address, "guess").range("/")
