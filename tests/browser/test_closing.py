"""The vote page before and after the close."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from .pages import choose, expect_choice, expect_receipt, hide


def test_an_open_page_shows_that_the_poll_is_closed_and_opened_again(site, visitors):
    page, another = (visitors.open(site.vote) for _ in range(2))
    page.evaluate("window.known = true")
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted. You can change it until voting closes.")
    site.up.close_poll()
    expect_receipt(page, "Voting is closed.", "Cats", "is counted.")
    expect_choice(page, "a")
    expect_receipt(another, "Voting is closed. You have not voted here.")
    for each in (page, another):
        expect(each.locator(".choice:disabled")).to_have_count(2)
    site.up.open_poll()
    expect(page.locator(".choice:enabled")).to_have_count(2)
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    assert page.evaluate("window.known")  # no reload


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
    hide(page, hidden=True)  # a poll would tell it the time of the server, which stays
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
