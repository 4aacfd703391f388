"""What pipelines leave, in a real browser: letters, topics, sagas; only the console runs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import accessible, browsing
from playwright.sync_api import Page, expect
from running import SHOP
from saga_rows import begin

from counterfoil.application import StateFolder
from counterfoil.application.state import write_json
from counterfoil.engines import free_port
from counterfoil.events import EmbeddedEvents, Record
from counterfoil.events.dead_letters import bury
from counterfoil.events.dead_letters.burial import keep, letter
from counterfoil.events.sagas.instances import Instances

SETTLED = "ValueError: the charge was settled"
WRONG = (
    '{"id":%d,"tenant":"aurora","customer":"c","day":"1997-03-01",'
    '"amount":"7","currency":"USD","discs":1}'
)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the console of a shop is that has left three letters and two sagas, with its key."""
    state = StateFolder(tmp_path)
    listen = f"127.0.0.1:{free_port()}"
    nowhere = dict.fromkeys(("coordination", "gateway", "admin"), "")
    write_json(state.addresses, {**nowhere, "console": listen})
    write_json(state.run, {"processes": []})
    store = EmbeddedEvents(tmp_path).pipelines()
    with store.database.transaction():
        for number, key in ((1, "a"), (2, "b"), (3, "b")):
            record = Record("payments", 0, number, number, key, (WRONG % number).encode(), {}, 0)
            bury(store, "ledger", record, ValueError("text"), tries=3, now_us=number * 1_000_000)
    instances = Instances(store.database)
    with store.database.transaction():
        begin(instances, 1, 1, status="completed", ended_us=9)
        stuck = begin(instances, 2, 2, status="stuck")
        instances.note(stuck, "charge", "stuck", at_us=7, direction="undo", error=SETTLED)
        instances.save(stuck)
    store.close()
    told, notify = os.pipe()
    lifeline, alive = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "counterfoil.console", "console", "console", "", SHOP, tmp_path],
        pass_fds=(notify, lifeline),
        env={
            **os.environ,
            "COUNTERFOIL_NOTIFY": str(notify),
            "COUNTERFOIL_LIFELINE": str(lifeline),
        },
    ) as process:
        os.close(notify)
        assert os.read(told, 1024), "it did not start"
        yield f"http://{listen}/#key={state.credential()}"
        os.close(alive)  # as if its supervisor were gone
        assert process.wait(30) == 0
    os.close(told)
    os.close(lifeline)


@pytest.fixture
def page() -> Iterator[Page]:
    with browsing() as found:
        yield found


def test_letters_are_tried_edited_replayed_and_discarded(address: str, page: Page) -> None:
    page.goto(address)
    page.get_by_role("link", name="3 dead letters of ledger").press("Enter")
    letters = page.get_by_role("list", name="Dead letters").get_by_role("link")
    expect(letters).to_have_count(3)
    page.get_by_label("Key", exact=True).fill("b")
    page.get_by_label("Key", exact=True).press("Enter")
    expect(letters).to_have_count(2)
    assert "key=b" in page.url

    letters.first.press("Enter")
    page.get_by_role("button", name="Try").press("Enter")
    expect(page.get_by_text(re.compile("would fail again.*Expected `int`"))).to_be_visible()
    page.get_by_role("button", name="Edit").press("Enter")
    page.get_by_role("button", name="Check and save").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("$.amount")
    accessible(page)
    replacement = page.get_by_label("Replacement")
    replacement.fill(replacement.input_value().replace('"7"', "7"))
    page.get_by_role("button", name="Check and save").press("Enter")
    expect(page.get_by_label("Result", exact=True)).to_contain_text("the original is kept")
    page.get_by_role("button", name="Try").press("Enter")
    expect(page.get_by_text("customer/c to tenant/aurora, 0.07 USD")).to_be_visible()
    accessible(page)

    page.get_by_role("button", name="Replay all that fit").press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(re.compile("by the handler")).check()
    accessible(page)
    dialog.get_by_role("button", name="Replay").press("Enter")
    expect(page.get_by_label("Progress")).to_contain_text("1 of 2 replayed")
    expect(page.get_by_role("list", name="Results")).to_contain_text("Expected `int`")
    expect(page.get_by_role("table", name="Audit")).to_contain_text("1 transfer")
    expect(letters).to_have_count(1)

    letters.first.press("Enter")
    page.get_by_role("button", name="Discard").press("Enter")
    expect(dialog.get_by_role("button", name="Discard")).to_be_disabled()
    dialog.get_by_label("Reason, for the audit").fill("a test")
    dialog.get_by_role("button", name="Discard").press("Enter")
    expect(page.get_by_role("table", name="Audit")).to_contain_text("a test")
    expect(page.get_by_role("button", name="Try")).to_be_disabled()
    accessible(page)


def test_ten_thousand_letters_are_looked_through_a_page_at_a_time(
    address: str, page: Page, tmp_path: Path
) -> None:
    store = EmbeddedEvents(tmp_path).pipelines()
    error = ValueError("text")
    with store.database.transaction():
        keep(
            store,
            "ledger",
            (
                letter(
                    "ledger",
                    Record("payments", 0, n, n, "m", b"{}", {}, 0),
                    error,
                    tries=3,
                    now_us=n,
                )
                for n in range(4, 10_001)
            ),
        )
    store.close()
    page.goto(address)
    page.get_by_role("link", name="10,000 dead letters of ledger").press("Enter")
    letters = page.get_by_role("list", name="Dead letters").get_by_role("link")
    expect(letters).to_have_count(100)
    expect(letters.first).to_contain_text("10000")
    expect(page.get_by_role("link", name="Newest letters")).to_have_count(0)
    page.get_by_role("link", name="Older letters").press("Enter")
    expect(letters.first).to_contain_text("9900 ·")
    expect(letters).to_have_count(100)
    assert "before=9901" in page.url
    accessible(page)
    letters.last.press("Enter")
    expect(page.get_by_role("button", name="Try")).to_be_visible()
    assert "/dead-letters/9801?" in page.url
    expect(letters.first).to_contain_text("9900 ·")
    page.goto(f"{page.url.partition('/dead-letters')[0]}/dead-letters?key=b&before=3")
    expect(letters).to_have_count(1)
    expect(page.get_by_role("link", name="Older letters")).to_have_count(0)
    page.get_by_role("link", name="Newest letters").press("Enter")
    expect(letters).to_have_count(2)
    assert page.url.endswith("/dead-letters?key=b")


def test_sagas_are_looked_through_a_page_at_a_time(
    address: str, page: Page, tmp_path: Path
) -> None:
    store = EmbeddedEvents(tmp_path).pipelines()
    instances = Instances(store.database)
    with store.database.transaction():
        for number in range(3, 131):
            begin(instances, number, number)
    store.close()
    page.goto(address)
    page.get_by_role("link", name="Sagas").press("Enter")
    rows = page.get_by_role("table", name="Sagas").get_by_role("row")
    expect(rows).to_have_count(101)
    page.get_by_role("link", name="Older sagas").press("Enter")
    expect(rows).to_have_count(31)
    accessible(page)
    page.get_by_role("link", name="1", exact=True).press("Enter")
    page.get_by_role("link", name="All sagas").press("Enter")
    expect(rows).to_have_count(31)
    page.get_by_role("link", name="Newest sagas").press("Enter")
    expect(rows).to_have_count(101)


def test_topics_are_shown_and_accessible(address: str, page: Page) -> None:
    page.goto(address)
    page.get_by_role("link", name="Topics").press("Enter")
    expect(page.get_by_role("heading", name="Topics")).to_be_visible()
    expect(page.get_by_text("None is open at this moment.")).to_be_visible()
    expect(page.get_by_role("table", name="Partitions")).to_contain_text("payments, 3")
    accessible(page)


def test_a_stuck_saga_is_found_and_its_timeline_read(address: str, page: Page) -> None:
    page.goto(address)
    page.get_by_role("link", name="Sagas").press("Enter")
    rows = page.get_by_role("table", name="Sagas").get_by_role("row")
    expect(rows).to_have_count(3)
    accessible(page)
    page.get_by_label("Status").select_option("stuck")
    expect(rows).to_have_count(2)
    assert "status=stuck" in page.url
    rows.get_by_role("link").press("Enter")
    stages = page.get_by_role("list", name="Timeline of ordering").get_by_role("listitem")
    expect(stages).to_have_count(3)
    expect(stages.nth(0)).to_contain_text("done")
    expect(stages.nth(1)).to_contain_text("failed, try 2")
    expect(stages.nth(2)).to_contain_text("stuck: needs a person")
    expect(stages.nth(2)).to_contain_text(SETTLED)
    accessible(page)
    expect(page.get_by_role("link", name="replay its dead letter")).to_have_attribute(
        "href", "/dead-letters?pipeline=saga.ordering"
    )
    page.get_by_role("link", name="All sagas").press("Enter")
    expect(rows).to_have_count(2)


def test_an_application_without_queues_is_told_how_there_would_be_some(
    address: str, page: Page
) -> None:
    page.goto(address)
    page.get_by_role("link", name="Tasks").press("Enter")
    expect(page.get_by_text("This application declares no task queues.")).to_be_visible()
    accessible(page)
