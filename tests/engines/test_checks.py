"""Checks find, on the real servers, what would break a promise, and nothing where all is well."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from counterfoil.engines import RunningEngine
from counterfoil.engines.checks import Finding, Level, check, check_decoding
from counterfoil.engines.checks import postgres as postgres_checks
from counterfoil.engines.checks.etcd import _Member
from counterfoil.engines.checks.kafka import _judge
from counterfoil.engines.checks.redis import _Connection

Engine = Callable[[str], RunningEngine]
REPLICATED = {
    "unclean.leader.election.enable": "false",
    "transaction.max.timeout.ms": "900000",
    "message.max.bytes": "1048588",
    "default.replication.factor": "3",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "min.insync.replicas": "2",
    "transaction.state.log.min.isr": "2",
    "auto.create.topics.enable": "false",
}
"""The settings of brokers that have all that is asked for."""


def broken(engine: RunningEngine, *, later: float = 0) -> dict[str, Finding]:
    """What breaks a promise, by setting."""
    found = check(engine.name, engine.address, engine.secret, time.time() + later)
    return {each.setting: each for each in found if each.level is Level.BREAKS}


@pytest.mark.parametrize("name", ["redis", "postgres", "kafka", "etcd"])
def test_an_engine_that_was_started_here_breaks_no_promise(name: str, engine: Engine) -> None:
    assert broken(engine(name)) == {}


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_a_clock_that_is_ten_minutes_off_is_found(name: str, engine: Engine) -> None:
    assert broken(engine(name), later=600)["clock"].found == "600 s behind"


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_a_wrong_password_is_found_and_not_repeated(name: str, engine: Engine) -> None:
    running = engine(name)
    (finding,) = check(name, running.address, "guess-of-somebody", time.time())
    assert finding.level is Level.BREAKS
    assert "password" in finding.found.lower()
    assert "guess-of-somebody" not in str(finding)
    assert "PASSWORD" in finding.remedy


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("redis", "redis://127.0.0.1:1/0"),
        ("postgres", "postgresql://counterfoil@127.0.0.1:1/postgres"),
        ("kafka", "127.0.0.1:1"),
        ("etcd", "http://127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_found(name: str, address: str) -> None:
    (finding,) = check(name, address, None, time.time())
    assert finding.level is Level.BREAKS
    assert "refused" in finding.found
    assert "[addresses]" in finding.remedy


@pytest.mark.parametrize("name", ["redis", "kafka", "etcd"])
def test_an_address_where_something_else_answers_is_found(name: str, engine: Engine) -> None:
    port = engine("postgres").servers[0].port
    scheme = {"redis": "redis://", "kafka": "", "etcd": "http://"}[name]
    (finding,) = check(name, f"{scheme}127.0.0.1:{port}", None, time.time())
    assert finding.level is Level.BREAKS


def test_a_redis_that_evicts_is_found(engine: Engine) -> None:
    redis = engine("redis")
    connection = _Connection("127.0.0.1", redis.servers[0].port)
    connection.ask("AUTH", redis.secret)
    (_, before) = connection.ask("CONFIG", "GET", "maxmemory")
    connection.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    connection.ask("CONFIG", "SET", "maxmemory", "100mb")
    try:
        assert broken(redis)["maxmemory-policy"].found == "allkeys-lru"
    finally:
        connection.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        connection.ask("CONFIG", "SET", "maxmemory", before)
        connection.close()


def test_a_redis_user_of_its_own_is_let_in(engine: Engine) -> None:
    redis = engine("redis")
    connection = _Connection("127.0.0.1", redis.servers[0].port)
    connection.ask("AUTH", redis.secret)
    connection.ask("ACL", "SETUSER", "limits", "on", ">limits-secret", "~*", "+@all")
    address = redis.address.replace("redis://", "redis://limits@")
    try:
        assert check("redis", address, "limits-secret", time.time()) == []
        (finding,) = check("redis", address, redis.secret, time.time())
        assert "WRONGPASS" in finding.found
    finally:
        connection.ask("ACL", "DELUSER", "limits")
        connection.close()


def test_an_etcd_that_is_full_is_found(engine: Engine) -> None:
    etcd = engine("etcd")
    member = _Member(etcd.address, "")
    member.ask("maintenance/alarm", {"alarm": "NOSPACE", "action": "ACTIVATE"})
    try:
        assert "NOSPACE" in broken(etcd)["alarm"].found
    finally:
        member.ask("maintenance/alarm", {"alarm": "NOSPACE", "action": "DEACTIVATE"})
    assert broken(etcd) == {}


def test_a_kafka_that_is_too_old_is_found() -> None:
    (finding,) = _judge({"metadata.version": 25}, {"transaction.version": 1}, 3, REPLICATED)
    assert finding.level is Level.BREAKS
    assert "4.0 or later" in finding.remedy
    assert _judge({"metadata.version": 29}, {"transaction.version": 2}, 3, REPLICATED) == []


@pytest.mark.parametrize(("brokers", "level"), [(1, Level.BREAKS), (3, Level.WEAKENS)])
def test_a_kafka_that_forgets_commits_is_found(brokers: int, level: Level) -> None:
    found = _judge({"metadata.version": 30}, {"transaction.version": 2}, brokers, REPLICATED)
    assert {each.setting: each.level for each in found}["version"] is level


@pytest.mark.parametrize("name", REPLICATED)
def test_a_setting_that_a_kafka_does_not_tell_is_not_taken_for_broken(name: str) -> None:
    told = {each: value for each, value in REPLICATED.items() if each != name}
    (finding,) = _judge({"metadata.version": 29}, {"transaction.version": 2}, 3, told)
    assert (finding.level, finding.setting, finding.found) == (Level.UNKNOWN, name, "not told")
    assert "ask whoever runs the brokers" in finding.remedy
    (wrong,) = _judge({"metadata.version": 29}, {"transaction.version": 2}, 3, told | {name: "1"})
    assert (wrong.level, wrong.found) != (Level.UNKNOWN, "not told")


def test_a_kafka_that_tells_no_settings_is_asked_about_each() -> None:
    found = _judge({"metadata.version": 29}, {"transaction.version": 2}, 3, {})
    assert {each.setting for each in found} == set(REPLICATED)
    assert {each.level for each in found} == {Level.UNKNOWN}
    assert all("DescribeConfigs" in each.remedy for each in found)


@contextmanager
def setting(postgres: RunningEngine, name: str, value: str) -> Iterator[None]:
    """Change a setting of the server for a while."""
    with psycopg.connect(postgres.address, password=postgres.secret, autocommit=True) as database:
        # A session that is read-only by default must still be able to put the setting back.
        database.execute("SET default_transaction_read_only = off")
        database.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
        database.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            database.execute(f"ALTER SYSTEM RESET {name}".encode())
            database.execute("SELECT pg_reload_conf()")


def test_a_postgres_that_can_not_be_written_is_found(engine: Engine) -> None:
    postgres = engine("postgres")
    with setting(postgres, "default_transaction_read_only", "on"):
        eventually(lambda: "default_transaction_read_only" in broken(postgres))
    eventually(lambda: broken(postgres) == {})


def test_a_log_that_a_slot_may_keep_without_bound_is_found(engine: Engine) -> None:
    postgres = engine("postgres")

    def found(sources: int = 2) -> list[str]:
        findings = check_decoding(postgres.address, postgres.secret, sources)
        return [each.setting for each in findings]

    assert found() == ["max_slot_wal_keep_size"]
    assert found(9_999) == ["replication slots", "max_slot_wal_keep_size"]
    with setting(postgres, "max_slot_wal_keep_size", "1000"):
        eventually(lambda: found() == [])


def test_a_slot_that_nobody_reads_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = engine("postgres")

    def found() -> list[str]:
        findings = check("postgres", postgres.address, postgres.secret, time.time())
        return [each.setting for each in findings if each.setting.startswith("slot ")]

    with psycopg.connect(postgres.address, password=postgres.secret, autocommit=True) as database:
        database.execute("SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")
        try:
            assert found() == [], "what it holds is little"
            monkeypatch.setattr(postgres_checks, "HELD_BYTES", 0)
            assert "slot left_behind" in found()
        finally:
            database.execute("SELECT pg_drop_replication_slot('left_behind')")


def test_a_postgres_that_forgets_after_a_crash_is_found(engine: Engine) -> None:
    postgres = engine("postgres")
    with setting(postgres, "full_page_writes", "off"):
        eventually(lambda: "full_page_writes" in broken(postgres))
    eventually(lambda: broken(postgres) == {})


def test_a_kafka_with_unclean_elections_is_found(engine: Engine) -> None:
    kafka = engine("kafka")
    admin = AdminClient({"bootstrap.servers": kafka.address})
    name = "unclean.leader.election.enable"
    for operation, expected in ((AlterConfigOpType.SET, True), (AlterConfigOpType.DELETE, False)):
        entry = ConfigEntry(name, "true", incremental_operation=operation)
        resource = ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)
        eventually(lambda expected=expected: (name in broken(kafka)) == expected)


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a server has taken a change in."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
