"""The page itself, in a real browser, on a running shop."""

import re
import shutil
from collections.abc import Iterator

import pytest
from conftest import SHOP, RunningShop
from playwright.sync_api import Page, expect, sync_playwright

AXE = SHOP.parents[1] / "console" / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = ["", "trace", "dead-letters", "reports", "reports-view/daily", "limits", "coordination"]
VIEWS += ["topics", "proof", "nowhere"]


@pytest.fixture(scope="module")
def page(shop: RunningShop) -> Iterator[Page]:
    executable = shutil.which("chromium")
    assert executable, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        found = browser.new_page()
        errors: list[str] = []
        found.on("pageerror", lambda error: errors.append(str(error)))
        found.goto(f"{shop.console}/#key={shop.key}")
        yield found
        browser.close()
        assert errors == []


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
    page.evaluate(AXE.read_text())
    violations = page.evaluate("axe.run().then(found => found.violations)")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []


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
