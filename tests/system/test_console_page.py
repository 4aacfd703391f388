"""The page itself, in a real browser, on a running shop."""

import re
from collections.abc import Iterator

import pytest
from browsing import accessible, browsing
from playwright.sync_api import Page, expect
from running import SHOP, RunningShop

VIEWS = ["", "trace", "dead-letters", "reports", "reports-view/daily", "limits", "coordination"]
VIEWS += ["topics", "sagas", "tasks", "proof", "nowhere"]


@pytest.fixture(scope="module")
def page(shop: RunningShop) -> Iterator[Page]:
    with browsing() as found:
        found.goto(f"{shop.console}/#key={shop.key}")
        yield found


def test_the_key_leaves_the_address_and_the_line_holds(shop: RunningShop, page: Page) -> None:
    shop.pay("page-1")
    page.goto(f"{shop.console}/")
    expect(page).to_have_url(f"{shop.console}/")
    for step in ("accepted", "posted", "stored", "reported"):
        expect(page.get_by_text(re.compile(step, re.IGNORECASE)).first).to_be_visible()
    expect(page.get_by_text("payments-1").first).to_be_visible()


def test_one_payment_is_followed(shop: RunningShop, page: Page) -> None:
    paid = shop.pay("page-2")
    page.goto(f"{shop.console}/trace/{paid['id']}")
    for station in ("request", "outbox", "ledger", "lake", "report"):
        expect(page.get_by_text(re.compile(station, re.IGNORECASE)).first).to_be_visible()
    expect(page.get_by_text(re.compile("totals.csv")).first).to_be_visible(timeout=30_000)


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_has_an_address_and_is_accessible(
    shop: RunningShop, page: Page, path: str
) -> None:
    page.goto(f"{shop.console}/{path}")
    expect(page.get_by_role("main")).to_be_visible()
    expect(page.get_by_role("heading").first).to_be_visible()
    expect(page.get_by_text("Loading")).to_have_count(0)
    accessible(page)


def test_a_breaker_is_held_after_a_question_and_let_go(shop: RunningShop, page: Page) -> None:
    def hold(words: str, answer: str) -> None:
        page.get_by_role("button", name=f"payments-1: {words}").press("Enter")
        accessible(page)
        page.get_by_role("dialog").get_by_role("button", name=answer).press("Enter")

    page.goto(f"{shop.console}/limits")
    row = page.get_by_role("row").filter(has_text="payments-1")
    hold("held open", "Cancel")
    expect(row).to_contain_text("closed: gets requests")
    hold("held open", "Hold open")
    expect(row).to_contain_text("open: gets none")
    expect(row).to_contain_text("held open by an operator")
    pressed = row.get_by_role("button", pressed=True)
    expect(pressed).to_have_text("held open")
    hold("itself", "Let go")
    expect(row).to_contain_text("closed: gets requests")
    expect(pressed).to_have_text("itself")


def test_a_reload_is_looked_at_first(shop: RunningShop, page: Page) -> None:
    page.goto(f"{shop.console}/limits")
    page.get_by_role("button", name="Check the configuration").press("Enter")
    expect(page.get_by_text("The file says what is in force.")).to_be_visible()
    accessible(page)
    page.get_by_role("button", name="Put it into force").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Reload").press("Enter")
    result = page.get_by_label("Result", exact=True)
    expect(result).to_have_text(re.compile(r"Configuration \d+ is in force"), timeout=10_000)


def test_an_empty_page_names_the_command_for_this_very_application(
    shop: RunningShop, page: Page
) -> None:
    page.goto(f"{shop.console}/proof")
    expect(page.get_by_text("Nothing was proven yet.")).to_be_visible()
    expect(page.get_by_text(f"counterfoil prove {SHOP}")).to_be_visible()
    page.goto(f"{shop.console}/trace")
    command = f"counterfoil trace ID {SHOP} --state {shop.state.root}"
    expect(page.get_by_text(command)).to_be_visible()


def test_a_stranger_is_told_where_the_key_is(shop: RunningShop, page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    stranger = browser.new_context().new_page()
    stranger.goto(f"{shop.console}/")
    expect(stranger.get_by_text(re.compile("counterfoil up")).first).to_be_visible()
    stranger.close()
