"""Every state of the pages is accessible and fits its window.

SCREENSHOTS names a folder for pictures and the accessibility tree of each state.
"""

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .pages import WINDOWS, expect_fit
from .states import STATES, Stage

FOLDER = os.environ.get("SCREENSHOTS")


@pytest.fixture
def stage(one_site, hidden_site, long_site, visitors):
    one_site.up.reset()
    return Stage(one_site, hidden_site, long_site, visitors)


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_accessible_and_fits(name, stage, visitors):
    if name == "result-missing":
        visitors.expect_status(404)
    with STATES[name](stage) as page:
        for scheme in ("light", "dark"):
            # Without transitions, during which colours have another contrast.
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            expect_fit(page)
            if FOLDER:
                save(page, Path(FOLDER) / f"{name}-{scheme}")


def save(page: Page, name: Path) -> None:
    """Save a picture of the page in each window, and its accessibility tree."""
    name.parent.mkdir(parents=True, exist_ok=True)
    for window in WINDOWS:
        page.set_viewport_size(window)
        page.screenshot(path=f"{name}-{window['width']}.png", full_page=True, animations="disabled")
    name.with_suffix(".txt").write_text(page.locator("body").aria_snapshot())
