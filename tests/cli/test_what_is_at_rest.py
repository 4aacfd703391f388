"""What commands say where nothing happens: neither silence nor a number that looks like trouble."""

import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from counterfoil.application import StateFolder
from counterfoil.cli import main
from counterfoil.cli.inspection import MARKERS, print_lag
from counterfoil.engines import RunningEngine
from counterfoil.events import KafkaEvents, Message, Topic
from counterfoil.kafka_access import KafkaAccess

SHOP = Path(__file__).parents[2] / "examples" / "shop"


def test_a_process_that_has_written_nothing_is_said_to_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = StateFolder(tmp_path).process_log("gateway")
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(SystemExit) as ended:
        main(["logs", "gateway", str(SHOP), "--state", str(tmp_path)])
    assert not ended.value.code
    assert capsys.readouterr() == ("", f"gateway has written nothing yet to {file}\n")


def test_a_lag_that_is_a_marker_is_said_to_be_none(
    engine: Callable[[str], RunningEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    postgres = engine("postgres")
    events = KafkaEvents(
        KafkaAccess(engine("kafka").address),
        postgres.address,
        postgres.secret,
        application=f"rest-{uuid.uuid4().hex}",
    )
    log = events.log()
    topic = Topic("sold", Message, partitions=1)
    log.declare([topic])
    with closing(log.appender("test", 1)) as appender:
        appender.append([Message(1, "sold", "a", b"{}", {}, 1)], 1)
    with closing(events.pipelines()) as store:
        store.store_positions("count", "sold", {0: 1})
        print_lag(events, as_json=False)
        shown = capsys.readouterr().out
        assert MARKERS in " ".join(shown.split())
        store.store_positions("count", "sold", {0: log.ends("sold")[0]})
        print_lag(events, as_json=False)
    assert MARKERS not in " ".join(capsys.readouterr().out.split())
