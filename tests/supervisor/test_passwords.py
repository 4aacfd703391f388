"""A password is asked for by whoever needs it, by the name of its variable, and by nobody else."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from counterfoil.application import Configuration, StateFolder, load
from counterfoil.cli.inspection import waiting_letters
from counterfoil.engines import RunningEngine
from counterfoil.engines.checks import check_kafka
from counterfoil.events import DeadLetters, Events
from counterfoil.kafka_access import PasswordMissing
from counterfoil.supervisor import open_events
from counterfoil.supervisor.engines import kafka_access
from counterfoil.supervisor.plan import Addresses

KAFKA = "127.0.0.1:1"


@pytest.fixture
def postgres(engine: Callable[[str], RunningEngine]) -> RunningEngine:
    return engine("postgres")


@pytest.fixture
def addresses(postgres: RunningEngine) -> Addresses:
    return Addresses("", "", "", "", engines={"kafka": KAFKA, "postgres": postgres.address})


@pytest.fixture
def configuration(
    tmp_path: Path, postgres: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> Configuration:
    """Of an application whose engines all ask for a password; none is in the environment."""
    for name in ("KAFKA_PASSWORD", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    (tmp_path / "counterfoil.toml").write_text(f"""
        [application]
        module = "shop:app"
        [services.shop]
        [engines]
        events = "kafka"
        [addresses]
        kafka = "{KAFKA}"
        postgres = "{postgres.address}"
        [kafka]
        protocol = "SASL_PLAINTEXT"
        user = "clerk"
    """)
    return load(tmp_path)


@pytest.fixture
def events(tmp_path: Path, configuration: Configuration, addresses: Addresses) -> Events:
    return open_events("passwords", configuration, StateFolder(tmp_path), addresses)


def test_dead_letters_need_no_password_of_kafka(
    events: Events, postgres: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres.secret)
    assert waiting_letters(events) == []
    with closing(events.pipelines()) as store:
        assert DeadLetters(store).list() == []


def test_who_opens_the_log_is_told_which_password_is_missing(
    events: Events, configuration: Configuration, addresses: Addresses
) -> None:
    for opens in (
        events.log,
        lambda: events.transactions().newest(0),
        lambda: check_kafka(kafka_access(configuration, addresses)),
    ):
        with pytest.raises(PasswordMissing, match="KAFKA_PASSWORD is not set") as refused:
            opens()
        assert "the password of clerk" in str(refused.value)
        assert "export KAFKA_PASSWORD" in refused.value.hint


def test_who_asks_the_database_is_told_which_password_is_missing(
    events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    assert waiting_letters(events) is None
    assert "set PGPASSWORD" in capsys.readouterr().err
