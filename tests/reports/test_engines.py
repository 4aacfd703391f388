"""What both engines promise, on both engines."""

import datetime
import json
from pathlib import Path
from typing import Any

import deltalake
import pytest
from sales import DAILY, PARTITIONS, SALES, Sale, all_ids, batches, ids, sale

from counterfoil.application import Application, Counterfoils, StateFolder
from counterfoil.proof.reconcile import lake_rows
from counterfoil.reports import (
    AlreadyMoved,
    Batch,
    Engine,
    Lake,
    LakeWriter,
    Report,
    ReportRunner,
    ReportsError,
    UnknownFeature,
    published,
)

AFTERWARDS_US = int(datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC).timestamp() * 1_000_000)
"""When all days of the rows are over."""


def append(folder: Path, engine: Engine, first: int, after: int) -> None:
    writer = LakeWriter(Lake(folder), SALES, engine)
    writer.append(batches(first, after), source="sales", now_us=1_000_000)


def run(folder: Path, engine: Engine, now_us: int = 2_000_000) -> dict[str, str]:
    return ReportRunner(Lake(folder), DAILY, folder / "report", engine).run(now_us).days


def table(folder: Path, section: str) -> deltalake.DeltaTable:
    return deltalake.DeltaTable(str(folder / "report" / "tables" / section))


def rows(folder: Path, section: str) -> list[list[Any]]:
    """The rows of a section's table, by day and then as the document has them."""
    found = deltalake.QueryBuilder().register("t", table(folder, section))
    columns = published(DAILY, folder / "report")["sections"][section]["columns"]
    order = ", ".join(columns)
    batches: Any = found.execute(f"SELECT {order} FROM t ORDER BY {order}")
    return [list(row) for batch in batches for row in zip(*map(list, batch.columns), strict=True)]


def test_rows_arrive_with_their_positions(folder: Path, one: Engine) -> None:
    writer = LakeWriter(Lake(folder), SALES, one)
    assert writer.positions("sales", PARTITIONS) == {}
    append(folder, one, 0, 30)
    append(folder, one, 30, 40)
    assert writer.positions("sales", PARTITIONS) == {0: 40, 1: 40}
    assert ids(Lake(folder)) == all_ids(40)


def test_where_nothing_could_be_read_the_position_moves_on(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 30)
    writer = LakeWriter(Lake(folder), SALES, one)
    writer.append({0: Batch([], 35, start=30)}, source="sales", now_us=1)
    assert writer.positions("sales", PARTITIONS) == {0: 35, 1: 30}
    assert ids(Lake(folder)) == all_ids(30)


def test_an_append_that_is_repeated_changes_nothing(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 30)
    append(folder, one, 0, 30)
    append(folder, one, 0, 20)
    assert ids(Lake(folder)) == all_ids(30)


def test_rows_that_another_process_has_appended_in_part_are_refused_with_the_rest(
    folder: Path, one: Engine
) -> None:
    append(folder, one, 0, 30)
    for first, after in ((0, 40), (20, 40), (35, 40)):
        with pytest.raises(AlreadyMoved, match="the table goes on at 30"):
            append(folder, one, first, after)
    assert ids(Lake(folder)) == all_ids(30)
    append(folder, one, 30, 40)
    assert ids(Lake(folder)) == all_ids(40)


def test_both_engines_agree_to_the_cent(tmp_path: Path, one: Engine, other: Engine) -> None:
    documents: list[dict[str, Any]] = []
    for engine, folder in ((one, tmp_path / "one"), (other, tmp_path / "other")):
        append(folder, engine, 0, 100)
        run(folder, engine)
        documents.append(published(DAILY, folder / "report"))
    assert documents[0]["sections"] == documents[1]["sections"]
    revenue = [rows[0][2] for rows in documents[0]["sections"]["totals"]["days"].values()]
    assert sum(revenue) == sum(sale(p, o).amount for p in range(PARTITIONS) for o in range(100))
    assert sum(revenue) > 0
    schemas = [
        json.loads(table(tmp_path / each, "totals").schema().to_json()) for each in ("one", "other")
    ]
    assert schemas[0] == schemas[1]


def test_a_table_begun_by_one_engine_is_continued_by_the_other(
    folder: Path, one: Engine, other: Engine
) -> None:
    append(folder, one, 0, 20)
    run(folder, one)
    append(folder, other, 0, 20)  # it knows the positions that the first one left
    append(folder, other, 20, 40)
    run(folder, other)
    append(folder, one, 40, 50)
    run(folder, one)
    assert ids(Lake(folder)) == all_ids(50)
    document = published(DAILY, folder / "report")
    whole = folder / "whole"
    ReportRunner(Lake(folder), DAILY, whole, one).run(9_000_000)
    assert document["sections"] == published(DAILY, whole)["sections"]


def test_a_late_row_corrects_its_day_and_no_other(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    assert list(run(folder, one).values()) == ["new"] * 5
    assert run(folder, one) == {}
    before = {section: set(table(folder, section).file_uris()) for section in DAILY.sections}
    late = Sale(999, "2026-01-02", "late", 100_000, True, sale(0, 0).due)
    writer = LakeWriter(Lake(folder), SALES, one)
    writer.append({0: Batch([late], 51, start=50)}, source="sales", now_us=3_000_000)
    days = run(folder, one, AFTERWARDS_US)
    assert list(days) == ["2026-01-02"]
    assert days["2026-01-02"].startswith("corrected 2026-02-01 00:00:00 UTC: rows arrived")
    document = published(DAILY, folder / "report")
    assert document["sections"]["best"]["days"]["2026-01-02"][2][1:] == ["late", 100_000]
    for section in DAILY.sections:
        changed = before[section] ^ set(table(folder, section).file_uris())
        assert changed, "the day's rows are new"
        assert all("day=2026-01-02" in file for file in changed)


def test_a_section_is_a_table_with_what_the_document_says(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    run(folder, one)
    sections = published(DAILY, folder / "report")["sections"]
    for section in DAILY.sections:
        found = [
            [str(getattr(c, "as_py", lambda c=c: c)()) for c in r] for r in rows(folder, section)
        ]
        days = sections[section]["days"]
        expected = [[str(cell) for cell in row] for day in sorted(days) for row in days[day]]
        assert found == expected
        (last,) = table(folder, section).history(1)
        assert json.loads(last["userMetadata"])["source_version"] >= 1


def test_a_new_section_is_computed_for_the_old_days_too(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    run(folder, one)
    query = "SELECT day, count(*) AS n FROM sales GROUP BY day"
    sections = {**DAILY.sections, "more": query}
    more = Report("daily", SALES, sections, title=DAILY.title, amounts=DAILY.amounts)
    ReportRunner(Lake(folder), more, folder / "report", one).run(5_000_000)
    assert len(published(more, folder / "report")["sections"]["more"]["days"]) == 5


def test_a_section_whose_query_changes_is_computed_anew_for_all_days(
    folder: Path, one: Engine
) -> None:
    append(folder, one, 0, 50)

    def totals(*columns: str) -> dict[str, str]:
        query = f"SELECT day, {', '.join(columns)} FROM sales GROUP BY day"
        sales = Report("daily", SALES, {"totals": query}, title="", amounts=("revenue",))
        return ReportRunner(Lake(folder), sales, folder / "report", one).run(5_000_000).days

    number, revenue = "count(*) AS number", "sum(amount) AS revenue"
    totals(number, revenue)
    before = published(DAILY, folder / "report")["sections"]["totals"]["days"]
    reasons = totals(revenue, number)
    assert set(reasons) == set(before)
    assert all("the definition of totals changed" in reason for reason in reasons.values())
    after = published(DAILY, folder / "report")["sections"]["totals"]
    assert after["columns"] == ["day", "revenue", "number"]
    assert after["days"] == {day: [[row[0], row[2], row[1]]] for day, (row,) in before.items()}
    assert totals(revenue, number) == {}
    totals(revenue, number, "max(amount) AS largest")
    assert len(rows(folder, "totals")[0]) == 4


def test_a_section_that_is_no_longer_declared_goes(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    run(folder, one)
    left = {"totals": DAILY.sections["totals"]}
    fewer = Report("daily", SALES, left, title=DAILY.title, amounts=DAILY.amounts)
    ReportRunner(Lake(folder), fewer, folder / "report", one).run(5_000_000)
    assert published(fewer, folder / "report")["sections"].keys() == left.keys()
    assert {path.stem for path in (folder / "report").glob("*.csv")} == left.keys()
    assert {path.name for path in (folder / "report" / "tables").iterdir()} == left.keys()


def test_an_amount_that_is_not_there_is_an_empty_cell(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    query = "SELECT day, sum(amount) FILTER (WHERE amount < 0) AS refunds FROM sales GROUP BY day"
    refunds = Report("daily", SALES, {"totals": query}, title="", amounts=("refunds",))
    ReportRunner(Lake(folder), refunds, folder / "report", one).run(5_000_000)
    lines = (folder / "report" / "totals.csv").read_text().splitlines()
    assert lines[:2] == ["day,refunds", "2026-01-01,"]


def test_commits_that_were_cleaned_up_mean_that_any_day_may_have_changed(
    folder: Path, one: Engine
) -> None:
    append(folder, one, 0, 50)
    run(folder, one)
    append(folder, one, 50, 51)
    append(folder, one, 51, 52)
    newest = deltalake.DeltaTable(str(folder / "sales"))
    newest.create_checkpoint()
    for version in range(newest.version()):
        (folder / "sales" / "_delta_log" / f"{version:020}.json").unlink()
    assert len(run(folder, one)) == 5


def test_files_that_are_merged_change_no_day(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 25)
    append(folder, one, 25, 50)
    run(folder, one)
    before = published(DAILY, folder / "report")
    merged = deltalake.DeltaTable(str(folder / "sales"))
    assert merged.optimize.compact()["numFilesRemoved"] > 0
    assert run(folder, one) == {}
    after = published(DAILY, folder / "report")
    assert after["version"] == merged.version() > before["version"]
    assert after["sections"] == before["sections"]
    append(folder, one, 50, 51)
    assert len(run(folder, one)) == 1


def test_sql_that_fails_names_its_section(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 10)
    sections = {"good": "SELECT day FROM sales", "bad": "SELECT day, price FROM sales"}
    broken = Report("daily", SALES, sections, title="")
    with pytest.raises(ReportsError, match=r"report daily, section bad: .*price"):
        ReportRunner(Lake(folder), broken, folder / "report", one).run(1)
    assert published(broken, folder / "report")["version"] == -1


def test_a_sum_beyond_64_bits_is_an_error_and_no_number(folder: Path, one: Engine) -> None:
    writer = LakeWriter(Lake(folder), SALES, one)
    huge = [Sale(n, "2026-01-01", "b", 2**63 - 1, False, sale(0, 0).due) for n in range(3)]
    writer.append({0: Batch(huge, 3, start=0)}, source="sales", now_us=1)
    with pytest.raises(ReportsError, match="section totals"):
        run(folder, one)


def protocol(path: Path, feature: str, *, reader: bool) -> None:
    """Commit a protocol with a feature, as whoever switches it on does."""
    version = deltalake.DeltaTable(str(path)).version() + 1
    action: dict[str, object] = {"minReaderVersion": 1, "minWriterVersion": 7}
    action["writerFeatures"] = [feature]
    if reader:
        action |= {"minReaderVersion": 3, "readerFeatures": [feature]}
    commit = path / "_delta_log" / f"{version:020}.json"
    commit.write_text(json.dumps({"protocol": action}) + "\n")


@pytest.mark.parametrize("feature", ["rowTracking", "inCommitTimestamp", "clustering"])
def test_a_feature_that_the_other_engine_can_not_write_is_not_written_to(
    folder: Path, one: Engine, feature: str
) -> None:
    append(folder, one, 0, 10)
    protocol(folder / "sales", feature, reader=False)
    with pytest.raises(UnknownFeature, match=f"{feature}.* written here") as refused:
        append(folder, one, 10, 20)
    assert "DROP FEATURE" in refused.value.hint
    assert ids(Lake(folder)) == all_ids(10), "reading is not in danger"


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping", "typeWidening", "unheard"])
def test_a_feature_that_would_be_read_wrongly_is_not_read(
    folder: Path, one: Engine, feature: str
) -> None:
    append(folder, one, 0, 10)
    protocol(folder / "sales", feature, reader=True)
    runner = ReportRunner(Lake(folder), DAILY, folder / "report", one)
    with pytest.raises(UnknownFeature, match=feature):
        runner.run(1)
    with pytest.raises(UnknownFeature, match=feature):
        Lake(folder).find(SALES, "id", 1)


def test_the_proof_does_not_read_past_deletion_vectors(folder: Path, one: Engine) -> None:
    state = StateFolder(folder)
    append(state.lake, one, 0, 10)
    app = Application("sales")
    topic = app.topic("sales", Sale)
    parts = {"service": "", "rows": "", "topic": topic, "posted": "", "count": "", "total": ""}
    counterfoils = Counterfoils(stored=SALES, report=DAILY, section="totals", **parts)  # type: ignore[arg-type]
    assert len(lake_rows(counterfoils, state)) == 20
    protocol(state.lake / "sales", "deletionVectors", reader=True)
    with pytest.raises(UnknownFeature, match="deletionVectors"):
        lake_rows(counterfoils, state)


def test_a_day_that_is_not_over_grows_and_is_not_corrected(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    second = int(datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC).timestamp() * 1_000_000)
    run(folder, one, second)
    append(folder, one, 50, 60)
    days = run(folder, one, second + 1)
    assert days["2026-01-01"].startswith("corrected 2026-01-02 12:00:00 UTC")
    assert days["2026-01-02"] == "new"


def test_rows_that_are_all_taken_away_are_gone_from_the_report(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 50)
    run(folder, one)
    deltalake.DeltaTable(str(folder / "sales")).delete()
    assert len(run(folder, one)) == 5
    sections = published(DAILY, folder / "report")["sections"]
    assert all(not rows for each in sections.values() for rows in each["days"].values())
    assert rows(folder, "totals") == []
    assert (folder / "report" / "totals.csv").read_text().count("\n") == 1


def test_a_row_whose_commit_was_cleaned_up_is_found(folder: Path, one: Engine) -> None:
    append(folder, one, 0, 25)
    append(folder, one, 25, 50)
    newest = deltalake.DeltaTable(str(folder / "sales"))
    newest.create_checkpoint()
    first = sale(0, 0).id
    before = Lake(folder).find(SALES, "id", first)
    assert before is not None
    for version in range(newest.version()):
        (folder / "sales" / "_delta_log" / f"{version:020}.json").unlink()
    after = Lake(folder).find(SALES, "id", first)
    assert after is not None
    assert after.file == before.file
    assert before.version <= after.version == newest.version() - 1
    assert after.committed_us > 0


def test_another_title_and_other_amounts_are_published_though_no_row_changed(
    folder: Path, one: Engine
) -> None:
    append(folder, one, 0, 50)

    def published_as(title: str, *amounts: str) -> str:
        query = {"totals": "SELECT day, sum(amount) AS revenue FROM sales GROUP BY day"}
        report = Report("daily", SALES, query, title=title, amounts=amounts)
        ReportRunner(Lake(folder), report, folder / "report", one).run(1)
        assert published(report, folder / "report")["title"] == title
        assert title in (folder / "report" / "index.html").read_text()
        return (folder / "report" / "totals.csv").read_text().splitlines()[1]

    plain = published_as("Minor")
    day, _, minor = plain.partition(",")
    assert published_as("Major", "revenue") == f"{day},{int(minor) / 100:.2f}"
    assert published_as("Major") == plain
