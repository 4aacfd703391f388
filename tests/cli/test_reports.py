"""`counterfoil reports` and `report`, on what a shop has published."""

import json
from pathlib import Path

import pytest

from counterfoil import cli
from counterfoil.application import StateFolder, load_application
from counterfoil.reports import Batch, Embedded, Lake, LakeWriter, ReportRunner

SHOP = Path(__file__).parents[2] / "examples" / "shop"
NOW_US = 1_800_000_000_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose report has three days, the second of which was corrected."""
    application = load_application(SHOP, "shop:app")
    topic, table = application.stores["payments"]
    files, report = StateFolder(tmp_path), application.reports["daily"]
    writer = LakeWriter(Lake(files.lake), table, Embedded())
    runner = ReportRunner(Lake(files.lake), report, files.reports / "daily", Embedded())
    days = ("1997-03-01", "1997-03-02", "1997-03-03", "1997-03-02")
    for first, after in ((0, 3), (3, 4)):
        rows = [
            topic.type(number, "aurora", "[/ada]", days[number], 123_456 + number, "USD", 1)
            for number in range(first, after)
        ]
        batch = {0: Batch(rows, after, start=first)}
        writer.append(batch, source="payments", now_us=NOW_US)
        runner.run(NOW_US)
    return tmp_path


def run(capture: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert (ended.value.code or 0) == code
    written = capture.readouterr()
    return written.err if code else written.out


def test_reports_are_listed(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "reports", str(SHOP), "--state", str(state)).splitlines()[1].split()
    assert (told[0], told[-3:]) == ("daily", ["3", "1", "0"])
    (found,) = json.loads(run(capsys, "reports", str(SHOP), "--state", str(state), "--json"))
    assert (found["name"], found["days"], list(found["corrected"])) == ("daily", 3, ["1997-03-02"])


def test_the_newest_days_of_a_report_are_shown(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("report", "daily", str(SHOP), "--state", str(state), "--days", "2")
    told = run(capsys, *asked)
    assert "1997-03-01" not in told
    assert "2,469.16" in told, "two payments of the second day, in major units"
    assert "[/ada]" in told
    assert "1997-03-02: corrected 2027-01-15 08:00:00 UTC: rows arrived after version" in told
    found = json.loads(run(capsys, *asked, "--section", "totals", "--json"))
    (section,) = found["sections"].values()
    assert [row[2] for row in section["rows"]] == [123_457 + 123_459, 123_458]


def test_a_name_that_is_none_is_told_with_those_there_are(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(SHOP), "--state", str(state))
    assert "one of daily" in run(capsys, "report", "hourly", *asked, code=2)
    assert "one of totals" in run(capsys, "report", "daily", *asked, "--section", "x", code=2)


def test_what_was_never_published_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(SHOP), "--state", str(tmp_path))
    assert "not yet" in run(capsys, "reports", *asked)
    assert "nothing was published yet" in run(capsys, "report", "daily", *asked)
