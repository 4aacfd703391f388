"""What the processes of an application write to their logs, and what never gets there."""

import json

import pytest
import structlog

from counterfoil.supervisor.host import log_as_json


def test_an_error_is_told_with_its_traceback_and_without_what_its_variables_held(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(headers: dict[str, str]) -> str:
        password = "hunter2"
        return headers[password[:0]]

    before = structlog.get_config()
    log_as_json()
    try:
        ask({"x-api-key": "sk-secret"})
    except KeyError:
        structlog.get_logger().exception("a hook failed", hook="ask")
    finally:
        structlog.configure(**before)
    written = capsys.readouterr().out
    (error,) = json.loads(written)["exception"]
    assert [frame["name"] for frame in error["frames"]][-1] == "ask"
    assert "hunter2" not in written
    assert "sk-secret" not in written
