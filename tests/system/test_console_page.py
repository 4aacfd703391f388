"""The page itself, in a real browser, on a running shop."""

import os
import re
from collections.abc import Iterator

import pytest
from browsing import accessible, browsing
from playwright.sync_api import Page, Route, expect
from running import SHOP, RunningShop

VIEWS = ["", "trace", "dead-letters", "reports", "reports-view/daily", "limits", "coordination"]
VIEWS += ["topics", "sagas", "tasks", "proof", "processes/relay-payments-1", "nowhere"]


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


def test_what_a_process_has_written_is_a_click_away(shop: RunningShop, page: Page) -> None:
    page.goto(f"{shop.console}/")
    page.get_by_role("link", name="payments-1", exact=True).click()
    expect(page).to_have_url(f"{shop.console}/processes/payments-1")
    expect(page.get_by_role("heading", name="payments-1")).to_be_focused()
    expect(page.get_by_text(re.compile("ready"))).to_be_visible()
    log = shop.state.process_log("payments-1")
    expect(page.get_by_text("It has written nothing.")).to_be_visible()
    try:
        with log.open("a") as file:
            file.write('{"event": "a line of its own"}\n')
        expect(page.get_by_role("group", name="The last lines")).to_contain_text("of its own")
    finally:
        os.truncate(log, 0)
    page.goto(f"{shop.console}/processes/nobody")
    expect(page.get_by_text("there is no process 'nobody'")).to_be_visible()


@pytest.fixture
def rerouted(page: Page) -> Iterator[Page]:
    """The page, for a test that gives it other answers than the console's."""
    yield page
    page.unroute_all(behavior="ignoreErrors")


def test_a_page_that_fails_leaves_the_way_to_the_others(shop: RunningShop, rerouted: Page) -> None:
    rerouted.route("**/api/tasks", lambda route: route.fulfill(json=[{"queue": "mail"}]))
    rerouted.goto(f"{shop.console}/tasks")
    expect(rerouted.get_by_role("heading", name="This page can't be shown")).to_be_visible()
    accessible(rerouted)
    rerouted.get_by_role("link", name="Topics").click()
    expect(rerouted.get_by_role("heading", name="Partitions")).to_be_visible()


def test_a_process_that_gets_no_further_is_told_of_on_every_page(
    shop: RunningShop, rerouted: Page
) -> None:
    def stuck(route: Route) -> None:
        found = route.fetch().json()
        for process in found["processes"]:
            if process["name"] == "payments-1":
                process["trouble"] = "its table is gone"
        route.fulfill(json=found)

    rerouted.route("**/api/overview", stuck)
    rerouted.goto(f"{shop.console}/topics")
    rerouted.get_by_role("link", name="1 process not well").click()
    row = rerouted.get_by_role("row").filter(has_text="payments-1").first
    expect(row).to_contain_text("in trouble")
    expect(row).to_contain_text("its table is gone")
    accessible(rerouted)


def test_nothing_is_called_equal_that_nobody_could_look_at(
    shop: RunningShop, rerouted: Page
) -> None:
    def blind(route: Route) -> None:
        unknown = {"state": "unknown", "looked_seconds_ago": 41.2, "trouble": "Away: gone"}
        route.fulfill(json={**route.fetch().json(), **unknown})

    rerouted.route("**/api/overview", blind)
    rerouted.goto(f"{shop.console}/")
    expect(rerouted.get_by_text(re.compile("from 41 s ago.*Away: gone"))).to_be_visible()
    expect(rerouted.get_by_text("Equal, to the cent.")).to_have_count(0)
    expect(rerouted).to_have_title(re.compile(r"^\? Overview"))
    accessible(rerouted)


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
