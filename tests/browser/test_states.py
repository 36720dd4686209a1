"""Every state of the pages: nobody is shut out, nothing sticks out. With SCREENSHOTS, to be seen.

SCREENSHOTS names a folder for pictures, and for what a screen reader makes of each state.
"""

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .states import STATES, Stage
from .test_looks import WINDOWS, expect_fit

FOLDER = os.environ.get("SCREENSHOTS")


@pytest.fixture
def stage(site, hidden_site, tedious_site, visitors):
    return Stage(site, hidden_site, tedious_site, visitors)


@pytest.mark.parametrize("name", STATES)
def test_a_state_shuts_nobody_out_and_fits(name, stage, visitors):
    if name == "result-missing":
        visitors.expect_status(404)
    with STATES[name](stage) as page:
        for scheme in ("light", "dark"):
            # No colour on its way to another.
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            expect_fit(page)
            if FOLDER:
                keep(page, Path(FOLDER) / f"{name}-{scheme}")


def keep(page: Page, name: Path) -> None:
    """Keep what the page looks like in each window, and how it reads."""
    name.parent.mkdir(parents=True, exist_ok=True)
    for window in WINDOWS:
        page.set_viewport_size(window)
        page.screenshot(path=f"{name}-{window['width']}.png", full_page=True, animations="disabled")
    name.with_suffix(".txt").write_text(page.locator("body").aria_snapshot())
