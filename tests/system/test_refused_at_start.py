"""What can't work is refused at start, in words that say what to do, with nothing half-started."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import deltalake
import pyarrow
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from running import COUNTERFOIL, SHOP, kafka_settings

from counterfoil import Migration
from counterfoil.application import load_application
from counterfoil.engines import RunningEngine, secured_kafka
from counterfoil.events import EmbeddedEvents, create_service
from counterfoil.events.kafka_rights import Right, needed
from counterfoil.kafka_access import KafkaAccess

Engine = Callable[[str], RunningEngine]


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Tries to start the shop on engines at addresses, and returns what it says instead."""

    def up(
        engines: str = "", secret: str = "", access: KafkaAccess | None = None, **addresses: str
    ) -> str:
        folder, state = tmp_path / "shop", tmp_path / "state"
        shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns(".counterfoil"))
        with (folder / "counterfoil.toml").open("a") as file:
            file.write("\n[addresses]\n")
            file.writelines(f'{name} = "{address}"\n' for name, address in addresses.items())
            file.write(kafka_settings(access) if access else "")
        command = [COUNTERFOIL, "up", str(folder), "--state", str(state), "--engines", engines]
        given = {**os.environ, "PGPASSWORD": secret, "REDIS_PASSWORD": secret}
        given["KAFKA_PASSWORD"] = access.password if access else ""
        done = subprocess.run(
            command, env=given, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        for each in filter(None, (secret, given["KAFKA_PASSWORD"])):
            assert each not in done.stderr + done.stdout
        assert not (state / "access.jsonl").exists(), "no gateway was started"
        return " ".join(done.stderr.split())

    return up


@pytest.mark.parametrize(
    ("engines", "addresses"),
    [
        ("limits=redis", {"redis": "redis://127.0.0.1:1/0"}),
        ("coordination=etcd", {"etcd": "http://127.0.0.1:1"}),
    ],
)
def test_an_address_where_nobody_is(
    refused: Callable[..., str], engines: str, addresses: dict[str, str]
) -> None:
    (name,) = addresses
    said = refused(engines, **addresses)
    assert f"{name}: address is" in said
    assert "refused" in said
    assert f"correct [addresses] {name}" in said


def test_a_remedy_names_its_table_in_the_table_of_findings(tmp_path: Path) -> None:
    shutil.copytree(SHOP, tmp_path / "shop", ignore=shutil.ignore_patterns(".counterfoil"))
    with (tmp_path / "shop" / "counterfoil.toml").open("a") as file:
        file.write('\n[addresses]\nredis = "redis://127.0.0.1:1/0"\n')
    command = [COUNTERFOIL, "engines", "check", str(tmp_path / "shop")]
    command += ["--engines", "limits=redis"]
    wide = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(command, env=wide, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "correct [addresses] redis" in done.stdout


def test_a_database_that_is_ahead_of_the_application(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    newer = Migration("drop the discs", "CREATE TABLE other (id INTEGER)")
    (tmp_path / "state").mkdir()
    schema = load_application(SHOP, "shop:app").services["payments"].schema
    with closing(EmbeddedEvents(tmp_path / "state").service("payments")) as database:
        create_service(database, schema, [newer], int)
    said = refused()
    assert "service payments: the database is ahead of this application" in said
    assert "no migration 1 (drop the discs)" in said
    assert "start the version that has it" in said


def test_a_wrong_password(refused: Callable[..., str], engine: Engine) -> None:
    kafka, postgres = engine("kafka").address, engine("postgres").address
    said = refused("events=kafka", "guess-of-somebody", kafka=kafka, postgres=postgres)
    assert "postgres: address is" in said
    assert "PGPASSWORD" in said


def test_a_kafka_that_lets_this_user_not_in(refused: Callable[..., str], engine: Engine) -> None:
    kafka, postgres = secured_kafka.access(engine("secured-kafka")), engine("postgres")
    wrong = replace(kafka, password="guess-of-somebody")
    given = {"kafka": kafka.servers, "postgres": postgres.address}
    said = refused("events=kafka", postgres.secret, wrong, **given)
    assert "kafka: user is counterfoil, whom 127.0.0.1" in said
    assert "set user of [kafka] and KAFKA_PASSWORD" in said


def test_a_kafka_that_allows_this_user_too_little(
    refused: Callable[..., str],
    engine: Engine,
    user_of_kafka: Callable[[str, Iterable[Right]], KafkaAccess],
) -> None:
    rights = [right for right in needed("shop") if right.resource != "transactional-id"]
    access, postgres = user_of_kafka("clerk", rights), engine("postgres")
    given = {"kafka": access.servers, "postgres": postgres.address}
    said = refused("events=kafka", postgres.secret, access, **given)
    assert "Kafka does not allow clerk: Write on transactional-id shop.*" in said
    assert "kafka-acls --add --allow-principal User:clerk --operation Write" in said


def test_a_topic_with_too_few_partitions(refused: Callable[..., str], engine: Engine) -> None:
    kafka, postgres = engine("kafka"), engine("postgres")
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic("shop.payments", 1, 1)])["shop.payments"].result(10)
    try:
        said = refused(
            "events=kafka", postgres.secret, kafka=kafka.address, postgres=postgres.address
        )
    finally:
        made = [name for name in admin.list_topics().topics if name.startswith("shop.")]
        for deleting in admin.delete_topics(made).values():
            deleting.result(10)
    assert "topic shop.payments has 1 partitions, not 4" in said
    assert "keep the number" in said


def test_a_table_with_a_feature_that_is_not_known(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    schema = pyarrow.schema([("id", pyarrow.int64()), ("day", pyarrow.string())])
    deltalake.DeltaTable.create(
        str(tmp_path / "state" / "lake" / "payments"),
        schema,
        partition_by=["day"],
        configuration={"delta.enableDeletionVectors": "true"},
    )
    said = refused()
    assert "deletionVectors" in said
    assert "DROP FEATURE" in said
