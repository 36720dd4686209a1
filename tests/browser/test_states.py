"""Every state of the pages is accessible and fits its window.

SCREENSHOTS names a folder for pictures and the accessibility tree of each state.
"""

import os
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from voting.web.languages import LANGUAGES

from .pages import OVERFLOW, PHONE, WINDOWS, expect_fit
from .states import STATES, Stage

FOLDER = os.environ.get("SCREENSHOTS")


@pytest.fixture
def stage(request, one_site, visitors):
    one_site.up.reset()
    return Stage(request, one_site, visitors)


# States of a response to a form, or of a request that fails: a reload ends them.
FLEETING = {
    *("vote-sending", "vote-error", "vote-refused", "vote-of-another-poll", "vote-too-often"),
    *("result-error", "admin-confirm", "admin-audited", "admin-audit-failed", "admin-asking"),
}
IN_A_LANGUAGE = {f"vote-in-{language}" for language in LANGUAGES}

# Returns the words in Latin letters that a page in Arabic has for its readers, except those that
# are no text of the page: of the question, an address, a key, a format or a diagnosis in English.
LATIN = """() => {
    const own = "[dir=auto], bdi, [lang=en], kbd, .address, svg text, template, noscript"
    const texts = [...document.body.querySelectorAll("*")].filter(each => !each.closest(own))
        .flatMap(each => [each.getAttribute("aria-label") ?? "",
            ...[...each.childNodes].filter(node => node.nodeType === 3).map(node => node.data)])
    return texts.map(text => text.replace(/\u2068[^\u2069]*\u2069/g, ""))
        .flatMap(text => text.match(/[A-Za-z]+/g) ?? [])
        .filter(word => !["UTC", "QR", "CSV", "JSON", "https"].includes(word))
}"""


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
        if name in FLEETING | IN_A_LANGUAGE:
            return
        page.set_viewport_size(PHONE)
        for language in ("de", "ar"):
            page.set_extra_http_headers({"Accept-Language": language})
            page.reload()
            expect_language(page, language)


@pytest.mark.parametrize("language", ["de", "ar"])
@pytest.mark.parametrize("name", sorted(FLEETING))
def test_a_fleeting_state_is_in_the_language(name, language, stage, visitors):
    visitors.locale = language
    with STATES[name](stage) as page:
        page.set_viewport_size(PHONE)
        expect_language(page, language)


def expect_language(page: Page, language: str) -> None:
    """Expect that all of a page is in this language, is accessible and fits a phone."""
    expect(page.locator("html")).to_have_attribute("lang", language)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    root = page.locator("html")
    assert root.evaluate("root => root.scrollWidth <= root.clientWidth")
    assert page.evaluate(OVERFLOW) == []
    if language == "ar":
        assert page.evaluate(LATIN) == []


def save(page: Page, name: Path) -> None:
    """Save a picture of the page in each window, and its accessibility tree."""
    name.parent.mkdir(parents=True, exist_ok=True)
    for window in WINDOWS:
        page.set_viewport_size(window)
        page.screenshot(path=f"{name}-{window['width']}.png", full_page=True, animations="disabled")
    name.with_suffix(".txt").write_text(page.locator("body").aria_snapshot())
