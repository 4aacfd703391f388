"""etcd that is killed, paused, and compacted, under leases and watches."""

import base64
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cluster import ask, members, written

from counterfoil.coordination import EtcdClient, KeyValue, Leadership, Unavailable
from counterfoil.coordination.client import TIMEOUT_SECONDS
from counterfoil.engines import RunningEngine


@pytest.fixture
def client(etcd: RunningEngine) -> EtcdClient:
    return EtcdClient(etcd.address, uuid.uuid4().hex)


@contextmanager
def paused(etcd: RunningEngine) -> Iterator[None]:
    etcd.pause()
    try:
        yield
    finally:
        etcd.resume()


@contextmanager
def killed(etcd: RunningEngine) -> Iterator[None]:
    etcd.kill()
    try:
        yield
    finally:
        etcd.start()


@contextmanager
def watching(client: EtcdClient, prefix: str) -> Iterator["queue.Queue[list[KeyValue]]"]:
    """All snapshots, as they come."""
    snapshots: queue.Queue[list[KeyValue]] = queue.Queue()
    stop = threading.Event()

    def follow() -> None:
        for snapshot in client.watch(prefix, stop):
            snapshots.put(snapshot)

    thread = threading.Thread(target=follow)
    thread.start()
    yield snapshots
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def wait_for(snapshots: "queue.Queue[list[KeyValue]]", wanted: list[KeyValue]) -> None:
    while snapshots.get(timeout=30) != wanted:
        continue


@pytest.mark.parametrize("broken", [paused, killed])
def test_every_call_raises_within_its_time_while_etcd_is_away(
    etcd: RunningEngine,
    client: EtcdClient,
    broken: Callable[[RunningEngine], AbstractContextManager[None]],
) -> None:
    lease, revoked = client.grant(600.0), client.grant(600.0)
    calls: list[Callable[[], object]] = [
        lambda: client.range("/"),
        lambda: client.put("/a", "1"),
        lambda: client.grant(5.0),
        lambda: client.keep_alive(lease.id, timeout=TIMEOUT_SECONDS),
        lambda: client.revoke(revoked.id),
        lambda: EtcdClient(etcd.address, "another").range("/"),
    ]
    with broken(etcd):
        for call in calls:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="etcd at http://127"):
                call()
            # It returns on time; a busy machine may take a while to run this thread again.
            assert time.monotonic() - began < TIMEOUT_SECONDS + 5.0
    assert written(client, "/b") in client.range("/")
    assert lease.alive()
    lease.revoke()


def test_what_was_acknowledged_is_there_after_a_kill_and_leases_and_watches_go_on(
    etcd: RunningEngine, client: EtcdClient
) -> None:
    lease = client.grant(30.0)
    first = client.put("/a", "1", lease, if_revision=0)
    assert first is not None
    with watching(client, "/") as snapshots:
        wait_for(snapshots, [first])
        with killed(etcd):
            pass
        assert client.range("/") == [first]
        assert client.keep_alive(lease.id, timeout=20.0)
        second = client.put("/b", "2", if_revision=0)
        assert second is not None and second.create_revision > first.create_revision
        wait_for(snapshots, [first, second])
        lease.revoke()
        wait_for(snapshots, [second])


def test_a_pause_of_etcd_beyond_a_lease_ends_it_here_and_in_etcd(
    etcd: RunningEngine, client: EtcdClient
) -> None:
    leader = Leadership(client, "relay", "first", ttl_seconds=2.0).campaign(threading.Event())
    assert leader is not None
    (key,) = client.range("/leaders/")
    with watching(client, "/leaders/") as snapshots:
        wait_for(snapshots, [key])
        with paused(etcd):
            waiting = threading.Event()
            while leader.held():
                waiting.wait(0.05)
        wait_for(snapshots, [])
        assert not leader.held()
        second = Leadership(client, "relay", "second", ttl_seconds=2.0).campaign(threading.Event())
        assert second is not None
        assert second.fencing_token > leader.fencing_token
        second.resign()


def test_a_watch_outlives_a_compaction_of_what_it_has_not_seen(tmp_path: Path) -> None:
    with members(tmp_path, 1) as (member,):
        client = EtcdClient(member.address, "shop")
        client.put("/big", "first")
        command = [sys.executable, str(Path(__file__).with_name("watcher.py"))]
        command += ["etcd", member.address, "shop"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "first\n"
            with stopped(watcher):
                number = 0
                while slow_watchers(member.address) == 0:  # until etcd can push no more
                    number += 1
                    client.put("/big", f"{number}".ljust(100_000, "."))
                for value in ("missed", "missed, too", "last"):
                    client.put("/big", value)
                found = ask(member.address, "kv/range", key=encoded("/"))
                ask(member.address, "kv/compaction", revision=int(found["header"]["revision"]))
            while watcher.stdout.readline() != "last\n":
                assert watcher.poll() is None
            client.put("/big", "after")
            assert watcher.stdout.readline() == "after\n"
            watcher.kill()


def test_applications_in_one_etcd_do_not_see_each_other(etcd: RunningEngine) -> None:
    name = uuid.uuid4().hex
    shop, shops = EtcdClient(etcd.address, name), EtcdClient(etcd.address, f"{name}s")
    shop.put("/a", "1", if_revision=0)
    assert shops.put("/a", "2", if_revision=0) is not None
    assert [key.value for key in shop.range("/")] == ["1"]
    assert [key.value for key in shops.range("/")] == ["2"]
    (found,) = ask(etcd.address, "kv/range", key=encoded(f"/counterfoil/{name}/a"))["kvs"]
    assert base64.b64decode(found["value"]) == b"1"


@pytest.mark.parametrize("asked", [0.4, 2.5, 3.0])
def test_etcd_keeps_a_lease_at_least_as_long_as_its_holder(
    etcd: RunningEngine, client: EtcdClient, asked: float
) -> None:
    lease = client.grant(asked)
    found = ask(etcd.address, "lease/timetolive", ID=str(lease.id))
    assert int(found["grantedTTL"]) >= asked
    lease.revoke()


@contextmanager
def stopped(process: "subprocess.Popen[str]") -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def slow_watchers(address: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    name = "etcd_debugging_mvcc_slow_watcher_total"
    (found,) = [line for line in lines if line.startswith(name)]
    return float(found.split()[1])


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
