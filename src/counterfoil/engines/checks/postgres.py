"""PostgreSQL: committed data must survive a crash."""

from typing import Any, Final
from urllib.parse import urlsplit

from counterfoil.engines.checks.finding import Finding, Level, clock, unreachable

OLDEST: Final = 150_000
CONNECTIONS: Final = 50
"""Connections of a small application: two for each process, and some for people."""
HELD_BYTES: Final = 1 << 30
"""How much WAL an inactive slot may retain before it is reported: a day of a small server, or a few
minutes' pause of a reader on a large one."""
_QUERY: Final = """
SELECT extract(epoch FROM clock_timestamp())::float8, pg_is_in_recovery(),
    current_setting('server_version_num')::int, current_setting('server_version'),
    current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('synchronous_commit'), current_setting('default_transaction_read_only'),
    current_setting('max_connections')::int, current_setting('server_encoding'),
    current_setting('wal_level'), has_database_privilege(current_database(), 'CREATE')
"""
_DECODING: Final = """
SELECT current_setting('wal_level'), current_setting('max_slot_wal_keep_size'),
    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
    least(current_setting('max_replication_slots')::int, current_setting('max_wal_senders')::int)
        - (SELECT count(*) FROM pg_replication_slots WHERE slot_name NOT LIKE 'counterfoil\\_%%')
"""
_IDLE: Final = """
SELECT slot_name, pg_size_pretty(held) FROM (
    SELECT slot_name, active, pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
            ELSE pg_current_wal_insert_lsn() END, restart_lsn) AS held
    FROM pg_replication_slots) AS slots
WHERE NOT active AND held > %s
"""


def check(address: str, secret: str | None, now: float) -> list[Finding]:
    """Version, durability, role, rights, clock, and inactive slots that retain WAL."""
    import psycopg  # noqa: PLC0415 - an extra

    try:
        with psycopg.connect(address, password=secret, connect_timeout=3) as connection:
            row = connection.execute(_QUERY).fetchone()
            idle = connection.execute(_IDLE, (HELD_BYTES,)).fetchall()
    except psycopg.OperationalError as error:
        remedy = "start it, correct [addresses] postgres, or give the password in PGPASSWORD"
        said = " ".join(str(error).split())
        return unreachable("postgres", urlsplit(address).hostname or "", said, remedy)
    assert row is not None, "a query without FROM has one row"
    return _judge(row) + _left_behind(idle) + clock("postgres", row[0], now)


def check_decoding(address: str, secret: str | None, sources: int) -> list[Finding]:
    """What logical decoding of the outboxes of `sources` sources needs.

    An unreachable server is reported by `check`.
    """
    import psycopg  # noqa: PLC0415 - an extra

    try:
        with psycopg.connect(address, password=secret, connect_timeout=3) as connection:
            row = connection.execute(_DECODING).fetchone()
    except psycopg.OperationalError:
        return []
    assert row is not None, "a query without FROM has one row"
    wal_level, kept, may_replicate, room = row
    findings: list[Finding] = []
    if wal_level != "logical":
        remedy = "ALTER SYSTEM SET wal_level = logical, and restart"
        findings.append(
            Finding("postgres", Level.BREAKS, "wal_level", wal_level, "logical", remedy)
        )
    if not may_replicate:
        remedy = "ALTER ROLE ... REPLICATION: reading the log needs it"
        findings.append(
            Finding("postgres", Level.BREAKS, "role", "no REPLICATION", "REPLICATION", remedy)
        )
    if room < sources:
        remedy = "raise max_replication_slots and max_wal_senders, and restart"
        needed = f"{sources} or more"
        findings.append(
            Finding("postgres", Level.BREAKS, "replication slots", str(room), needed, remedy)
        )
    if kept == "-1":
        remedy = (
            "ALTER SYSTEM SET max_slot_wal_keep_size = '64GB', or what the disk has to spare: "
            "a source whose relays are away fills it otherwise"
        )
        findings.append(
            Finding("postgres", Level.WEAKENS, "max_slot_wal_keep_size", "-1", "a bound", remedy)
        )
    return findings


def _left_behind(slots: list[tuple[Any, ...]]) -> list[Finding]:
    return [
        Finding(
            "postgres",
            Level.WEAKENS,
            f"slot {name}",
            f"holds {held} of the log, and nobody reads it",
            "a reader",
            f"start its reader, or SELECT pg_drop_replication_slot('{name}')",
        )
        for name, held in slots
    ]


def _judge(row: tuple[Any, ...]) -> list[Finding]:
    _, standby, number, version, fsync, pages, synchronous, *rest = row
    read_only, connections, encoding, wal_level, may_create = rest
    findings: list[Finding] = []

    def say(level: Level, setting: str, found: object, needed: str, remedy: str) -> None:
        findings.append(Finding("postgres", level, setting, str(found), needed, remedy))

    if number < OLDEST:
        say(Level.BREAKS, "version", version, f"{OLDEST // 10_000} or later", "upgrade the server")
    if standby:
        say(Level.BREAKS, "role", "standby", "primary", "use the primary's address")
    elif read_only == "on":
        remedy = "ALTER SYSTEM SET default_transaction_read_only = off"
        say(Level.BREAKS, "default_transaction_read_only", "on", "off", remedy)
    for setting, found in (("fsync", fsync), ("full_page_writes", pages)):
        if found != "on":
            remedy = f"ALTER SYSTEM SET {setting} = on: a crash loses commits without it"
            say(Level.BREAKS, setting, found, "on", remedy)
    if synchronous == "off":
        remedy = "ALTER SYSTEM SET synchronous_commit = on (our own connections set it themselves)"
        say(Level.WEAKENS, "synchronous_commit", synchronous, "on", remedy)
    if connections < CONNECTIONS:
        remedy = f"ALTER SYSTEM SET max_connections = {2 * CONNECTIONS}, and restart"
        say(Level.WEAKENS, "max_connections", connections, f"{CONNECTIONS} or more", remedy)
    if encoding != "UTF8":
        remedy = "create the database with ENCODING 'UTF8'"
        say(Level.BREAKS, "server_encoding", encoding, "UTF8", remedy)
    if wal_level == "minimal":
        remedy = "ALTER SYSTEM SET wal_level = replica: no standby or backup can follow otherwise"
        say(Level.WEAKENS, "wal_level", wal_level, "replica or logical", remedy)
    if not may_create:
        remedy = "GRANT CREATE ON DATABASE to the user, for the schemas of the application"
        say(Level.BREAKS, "privilege", "no CREATE", "CREATE", remedy)
    return findings
