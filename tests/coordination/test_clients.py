"""Keys, leases, leadership, machine numbers, registration and watches, on both engines."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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
    Snowflakes,
    Unavailable,
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


def test_a_lease_ends_while_its_holders_machine_is_suspended(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = client.grant(60.0)
    assert lease.alive()
    clock = time.clock_gettime
    goes_on = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def after_a_night(which: int) -> float:
        return clock(which) + (8 * 3_600 if which == goes_on else 0)

    with monkeypatch.context() as patch:
        patch.setattr(time, "clock_gettime", after_a_night)
        assert not lease.alive()
    assert not lease.alive(), "once lost it stays lost"
    lease.revoke()


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


def test_a_clock_that_goes_back_takes_another_number_and_gives_the_first_back(
    client: Client,
) -> None:
    clock, numbers = [NOW_MS], MachineIds(client)
    ids = Snowflakes(numbers, "a", lambda: clock[0])
    found = [ids.next_id()]
    for _ in range(3):
        clock[0] -= 10 * WINDOW_MS
        found.append(ids.next_id())
    assert len(set(found)) == 4
    assert list(numbers.holders().values()) == ["a"]


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


def test_who_leaves_while_a_lease_is_being_granted_has_left(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()
    grant = client.grant

    def slow(ttl_seconds: float) -> Lease:
        asked.set()
        assert answer.wait(20)
        return grant(ttl_seconds)

    monkeypatch.setattr(client, "grant", slow)
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


def test_a_put_that_depends_on_a_revision_changes_nothing_once_the_key_has_moved(
    client: Client,
) -> None:
    first = client.put("/a", "1", if_revision=0)
    assert first is not None and first.create_revision == first.mod_revision
    assert client.put("/a", "2", if_revision=0) is None
    second = client.put("/a", "3", if_revision=first.mod_revision)
    assert second is not None
    assert second.create_revision == first.create_revision
    assert second.mod_revision > first.mod_revision
    assert client.put("/a", "4", if_revision=first.mod_revision) is None
    assert client.put("/b", "5", if_revision=first.mod_revision) is None
    assert client.range("/") == [second]


def test_a_range_holds_what_begins_with_its_prefix_in_order(client: Client) -> None:
    for key in ("/b/2", "/b/1", "/a/1", "/b", "/c", "/b/\N{GREEK SMALL LETTER OMEGA}"):
        assert client.put(key, key.upper()) is not None
    found = client.range("/b/")
    assert [key.key for key in found] == ["/b/1", "/b/2", "/b/\N{GREEK SMALL LETTER OMEGA}"]
    assert found[0].value == "/B/1"
    assert len(client.range("/")) == 6


def test_keys_go_with_their_lease_and_none_can_be_hung_on_it_afterwards(client: Client) -> None:
    lease = client.grant(60.0)
    client.put("/kept", "1")
    client.put("/a", "1", lease)
    client.put("/b", "1", lease)
    lease.revoke()
    assert [key.key for key in client.range("/")] == ["/kept"]
    assert not lease.alive()
    assert client.put("/c", "1", lease) is None
    assert not client.keep_alive(lease.id, timeout=20.0)
    lease.revoke()


def test_a_lease_outlives_its_time_while_it_is_kept_alive(client: Client) -> None:
    lease = client.grant(3.0)
    client.put("/a", "1", lease)
    ended = lease.lost.wait(4.0)
    assert not ended and lease.alive()
    assert [key.key for key in client.range("/")] == ["/a"]
    lease.revoke()


def test_a_lease_that_is_not_kept_alive_is_lost_here_before_its_keys_are_gone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_: int, *, timeout: float) -> bool:
        raise Unavailable(f"no answer in {timeout} s")

    monkeypatch.setattr(client, "keep_alive", cut_off)
    lease = client.grant(2.0)
    snapshots = client.watch("/a", threading.Event())
    assert next(snapshots) == []
    written = client.put("/a", "1", lease)
    assert written is not None
    assert next(snapshots) == [written]
    assert lease.alive()
    assert next(snapshots) == []
    assert not lease.alive()
    assert lease.lost.wait(20.0)


def test_a_paused_leader_has_lost_its_lease_on_both_sides_and_can_not_write(
    client: Client, arguments: tuple[str, str, str]
) -> None:
    stop = threading.Event()
    command = [sys.executable, str(Path(__file__).with_name("candidate.py")), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None and first.stdout is not None
        first_token = json.loads(first.stdout.readline())["token"]
        assert [leader.candidate for leader in leaders(client)] == ["first"]
        first.send_signal(signal.SIGSTOP)
        second = Leadership(client, "relay", "second", ttl_seconds=2.0).campaign(stop)
        assert second is not None
        assert second.fencing_token > first_token
        (guarded,) = client.range("/work")
        assert client.put("/work", "by the second", if_revision=guarded.mod_revision) is not None
        first.send_signal(signal.SIGCONT)
        first.stdin.write(b"write\n")
        first.stdin.flush()
        assert json.loads(first.stdout.readline()) == {"held": False, "refused": True}
    assert client.range("/work")[0].value == "by the second"
    assert second.held()
    second.resign()


def test_a_watch_ends_when_it_is_stopped(client: Client) -> None:
    stop = threading.Event()
    snapshots = client.watch("/a", stop)
    assert next(snapshots) == []
    written = client.put("/a", "1")
    assert next(snapshots) == [written]
    stop.set()
    assert list(snapshots) == []
