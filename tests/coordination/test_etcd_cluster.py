"""Three members of etcd, of which some are killed or paused."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Member, members, written

from counterfoil.coordination import (
    EtcdClient,
    Instance,
    Membership,
    Registry,
    Unavailable,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Member]]:
    with members(tmp_path_factory.mktemp("cluster"), 3) as found:
        yield found


@pytest.mark.parametrize("leader", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_leases_watches_and_writes_go_on_at_another_member(
    cluster: list[Member], tmp_path: Path, number: signal.Signals, leader: bool
) -> None:
    # The first address is used first, so that it is the one to break.
    victim = next(each for each in cluster if each.leads() == leader)
    others = [each for each in cluster if each is not victim]
    addresses = ",".join(each.address for each in (victim, *others))
    client = EtcdClient(addresses, tmp_path.name)
    lease = client.grant(6.0)
    assert client.put("/leased", "1", lease) is not None
    stop = threading.Event()
    snapshots = client.watch("/", stop)
    assert len(next(snapshots)) == 1
    victim.send(number)
    try:
        change = written(client, "/change")
        assert change in client.range("/")
        while change not in next(snapshots):
            continue
        assert lease.alive()
        assert not lease.lost.wait(6.0), "it is kept alive at another member"
        assert len(client.range("/leased")) == 1
    finally:
        if number == signal.SIGSTOP:
            victim.send(signal.SIGCONT)
        else:
            victim.kill()
            victim.start(",".join(f"{each.name}={each.peer}" for each in cluster))
        victim.wait()
    stop.set()
    lease.revoke()


def test_a_minority_refuses_and_goes_on_once_it_is_a_majority_again(
    cluster: list[Member], tmp_path: Path
) -> None:
    client = EtcdClient(",".join(each.address for each in cluster), tmp_path.name)
    instance = Instance("payments", "payments-1", "127.0.0.1:1")
    membership = Membership(client, instance, ttl_seconds=3.0)
    stop = threading.Event()
    snapshots = Registry(client).watch(stop)
    while next(snapshots) != {"payments": [instance]}:
        continue
    for each in cluster[1:]:
        each.send(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            client.put("/a", "1")
        with pytest.raises(Unavailable):
            client.range("/")
    finally:
        for each in cluster[1:]:
            each.send(signal.SIGCONT)
    assert written(client, "/a").value == "1"
    while Registry(client).instances() != [instance]:
        stop.wait(0.05)
    membership.close()
    while next(snapshots):
        continue
    stop.set()
