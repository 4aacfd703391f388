"""A page in a real browser, and what holds of every page."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright
from running import SHOP

AXE = SHOP.parents[1] / "console" / "node_modules" / "axe-core" / "axe.min.js"


@contextmanager
def browsing() -> Generator[Page, None, None]:
    """A page whose scripts must end without an error."""
    executable = shutil.which("chromium")
    assert executable, "chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        found = browser.new_page()
        errors: list[str] = []
        found.on("pageerror", lambda error: errors.append(str(error)))
        yield found
        browser.close()
        assert errors == []


def accessible(page: Page) -> None:
    """Axe finds no fault with what is shown."""
    page.evaluate(AXE.read_text())
    violations = page.evaluate("axe.run().then(found => found.violations)")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []
