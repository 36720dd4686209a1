"""The vote page before and after the close."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from .pages import choose, expect_choice, expect_receipt, hide


def test_after_the_close_the_page_shows_the_counted_vote_and_takes_no_other(site, visitors):
    page = visitors.open(site.vote)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted. You can change it until voting closes.")
    site.up.close_poll()
    expect(page.locator("#choice-b")).to_be_enabled()  # the page does not poll the state
    page.reload()
    expect_receipt(page, "Voting is closed.", "Cats", "is counted.")
    expect_choice(page, "a")
    page.context.clear_cookies()
    page.reload()
    expect_receipt(page, "Voting is closed. You have not voted here.")
    for key in "ab":
        expect(page.locator(f"#choice-{key}")).to_be_disabled()


@pytest.mark.parametrize("voted", [True, False])
def test_a_closed_page_learns_that_voting_is_open_again(site, visitors, voted):
    page = visitors.open(site.vote)
    if voted:
        choose(page, "a")
        expect_receipt(page, "Cats", "is counted")
    site.up.close_poll()
    page.reload()
    expect(page.locator("#choice-b")).to_be_disabled()
    page.evaluate("window.known = true")
    site.up.open_poll()
    hide(page, hidden=False)  # polls at once; it would within 15 seconds
    expect(page.locator("#choice-b")).to_be_enabled()
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    assert page.evaluate("window.known")


@pytest.mark.parametrize("error", [timedelta(0), timedelta(hours=-3)])
def test_the_page_counts_down_whatever_the_clock_of_the_browser_shows(site, visitors, error):
    site.up.close_poll(at=datetime.now(UTC) + timedelta(hours=2, minutes=30))
    page = visitors.open(site.vote)
    page.clock.install(time=datetime.now(UTC) + error)
    page.reload()
    closes = page.locator(".closes")
    expect(closes).to_have_text(re.compile(r"^Voting closes in 2 h 29 min \d+ s$"))
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect(closes).to_have_text(re.compile(r"^Voting closes in 2 h 29 min \d+ s$"))
    page.clock.fast_forward("02:29:00")
    expect(closes).to_have_text(re.compile(r"^Voting closes in (1 min )?\d+ s$"))
    page.clock.fast_forward("02:00")
    expect(closes).to_have_text("Voting is closed.")


@pytest.mark.parametrize("error", [timedelta(0), timedelta(hours=3)])
def test_the_result_counts_down_whatever_the_clock_of_the_browser_shows(site, visitors, error):
    result = visitors.open(site.result)
    result.clock.set_system_time(datetime.now(UTC) + error)
    closes = result.locator(".closes")
    expect(closes).to_have_count(0)
    site.up.close_poll(at=datetime.now(UTC) + timedelta(minutes=5))
    expect(closes).to_have_text(re.compile(r"^Voting closes in 4 min \d+ s$"))
    site.up.open_poll()
    expect(closes).to_have_count(0)


def test_without_javascript_the_page_shows_the_time_of_the_close(site, visitors):
    at = datetime.now(UTC) + timedelta(hours=1)
    site.up.close_poll(at=at)
    page = visitors.open(site.vote, javascript=False)
    closes = f"Voting closes on {at.day} {at:%B %Y at %H:%M:%S} UTC"
    expect(page.locator(".closes")).to_have_text(closes)
