"""The life of a result on one page that nobody reloads."""

import re

import pytest
from playwright.sync_api import expect

from .conftest import OPEN
from .pages import choose, expect_receipt, expect_totals
from .states import CLOSE, FINISH, LOSE
from .test_looks import CONTRAST, expect_fit
from .test_pace import HIDE


def test_a_page_goes_from_hidden_to_final_and_back_by_itself(hidden_site, visitors):
    page, result = visitors.open(hidden_site.vote), visitors.open(hidden_site.result)
    phase, turnout = result.locator(".phase"), result.locator(".turnout")
    phase.evaluate("element => window.known = element")  # a reload would forget it
    expect(phase).to_have_text("The result is shown when voting closes.")
    expect(turnout).to_have_text("No votes yet.")
    choose(page, "a")
    expect_receipt(page, "is counted")
    expect(turnout).to_have_text("1 person has voted.")
    expect(result.locator(".counts, .bar")).to_have_count(0)

    with hidden_site.up.frozen("worker"):  # each step is the test's own
        hidden_site.up.sql(CLOSE)
        expect(phase).to_have_text("Voting is closed. Counting the last votes.")
        expect_totals(result, 1, 0)
        hidden_site.up.sql(FINISH)
        expect(phase).to_have_text(re.compile(r"^Final result of \d+ \w+ \d{4}, \d\d:\d\d UTC$"))
        expect_totals(result, 1, 0)

        wall = visitors.open(f"{hidden_site.result}/screen")
        expect(wall.locator(".phase")).to_contain_text("Final result")
        asked: list[str] = []
        result.on("request", lambda request: asked.append(request.url))
        hidden_site.up.sql(OPEN)
        # A wall shows the next poll by itself; who sits before a final result is left in peace.
        expect(wall.locator(".phase")).to_have_text("The result is shown when voting closes.")
        assert asked in ([], [f"{hidden_site.result}/timeline"])  # which had its last step to show
        expect(phase).to_contain_text("Final result")
        result.evaluate(HIDE, False)  # noqa: FBT003 - the one argument
        expect(phase).to_have_text("The result is shown when voting closes.")
        expect(result.locator(".counts, .bar")).to_have_count(0)
    assert phase.evaluate("element => window.known === element")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_phase_fits_and_stands_out(hidden_site, visitors, scheme):
    page = visitors.open(hidden_site.vote)
    choose(page, "a")
    expect_receipt(page, "is counted")
    with hidden_site.up.frozen("worker"):
        for statement, said in (
            ("SELECT 1", "The result is shown"),
            (CLOSE, "Counting the last votes"),
            (LOSE, "Counting the last votes"),
            (FINISH, "Final result"),  # the last of it: from here on the page asks no more
        ):
            hidden_site.up.sql(statement)
            result = visitors.open(hidden_site.result, color_scheme=scheme)
            expect(result.locator(".phase")).to_contain_text(said)
            shown = result.locator(".phase, .turnout, .exports, .exports a, .problem").all()
            texts = {each.inner_text(): each.evaluate(CONTRAST) for each in shown}
            assert {text: ratio for text, ratio in texts.items() if ratio < 4.5} == {}
            expect_fit(result)
        expect(result.locator(".problem")).to_contain_text("was lost at 2 January 2030, 03:04 UTC")


def test_a_click_downloads_the_result(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "b")
    expect_totals(result, 0, 1)
    for name in ("CSV", "JSON"):
        with result.expect_download() as download:
            result.get_by_role("link", name=name, exact=True).click()
        assert download.value.suggested_filename == f"votes-round-1.{name.lower()}"
        assert "Dogs" in download.value.path().read_text()
