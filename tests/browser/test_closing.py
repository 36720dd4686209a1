"""What voters see of the end of a vote."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from .conftest import PHONE
from .pages import choose, expect_choice, expect_receipt


def test_who_comes_after_the_close_can_not_vote_and_is_told_so(site, visitors):
    site.up.close_poll()
    page = visitors.open(site.vote, viewport=PHONE)
    expect_receipt(page, "Voting is closed. You have not voted here.")
    for key in "ab":
        expect(page.locator(f"#choice-{key}")).to_be_disabled()


def test_who_has_voted_sees_after_the_close_what_counts(site, visitors):
    page = visitors.open(site.vote)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted. You can change it until voting closes.")
    site.up.close_poll()
    expect(page.locator("#choice-b")).to_be_enabled()  # it was not asked since
    page.reload()
    expect_receipt(page, "Voting is closed.", "Cats", "is counted.")
    expect_choice(page, "a")
    expect(page.locator("#choice-b")).to_be_disabled()


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(hours=-3)])
def test_a_poll_that_closes_at_a_time_counts_down_also_where_a_clock_is_wrong(
    site, visitors, wrong
):
    site.up.close_poll(at=datetime.now(UTC) + timedelta(hours=2, minutes=30))
    page = visitors.open(site.vote)
    page.clock.install(time=datetime.now(UTC) + wrong)
    page.reload()
    expect(page.locator(".closes")).to_have_text(re.compile(r"^Voting closes in 2 h 29 min \d+ s$"))
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect(page.locator(".closes")).to_have_text(re.compile(r"^Voting closes in 2 h 29 min \d+ s$"))
    page.clock.fast_forward("02:29:00")
    expect(page.locator(".closes")).to_have_text(re.compile(r"^Voting closes in (1 min )?\d+ s$"))
    page.clock.fast_forward("02:00")
    expect(page.locator(".closes")).to_have_text("Voting is closed.")


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(hours=3)])
def test_the_result_counts_down_too(site, visitors, wrong):
    result = visitors.open(site.result)
    result.clock.set_system_time(datetime.now(UTC) + wrong)
    expect(result.locator(".closes")).to_have_count(0)
    site.up.close_poll(at=datetime.now(UTC) + timedelta(minutes=5))
    expect(result.locator(".closes")).to_have_text(re.compile(r"^Voting closes in 4 min \d+ s$"))
    site.up.open_poll()
    expect(result.locator(".closes")).to_have_count(0)


def test_without_javascript_the_page_says_when_voting_closes(site, visitors):
    at = datetime.now(UTC) + timedelta(hours=1)
    site.up.close_poll(at=at)
    page = visitors.open(site.vote, javascript=False)
    expect(page.locator(".closes")).to_have_text(f"Voting closes at {at:%H:%M:%S} UTC")
    site.up.open_poll()
