"""What people see when something is down, closed or switched off."""

import re

import pytest
from playwright.sync_api import Page, expect

from .conftest import PHONE
from .pages import RECEIPT, choose, expect_choice, expect_receipt, expect_totals


def boxes(page: Page) -> list[object]:
    """Tell where the two buttons are."""
    return [page.locator(f"#choice-{key}").bounding_box() for key in "ab"]


def test_an_error_says_what_became_of_the_vote_and_leaves_all_in_place(site, visitors):
    visitors.expect_status(503)
    page = visitors.open(site.vote, viewport=PHONE)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    before = boxes(page)
    alert = page.get_by_role("alert")
    with site.up.frozen("valkey-server"):
        choose(page, "b")
        expect(alert).to_contain_text("We don't know whether your vote was recorded")
        expect(alert).to_be_in_viewport(ratio=1)
        expect_choice(page, "a")
        expect(page.locator("#choice-b")).to_be_focused()
        assert boxes(page) == before
        choose(page, "b")
        expect(alert).to_contain_text("Your vote was not recorded")
        expect_choice(page, "a")
        assert boxes(page) == before
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_choice(page, "b")
    expect(alert).to_have_count(0)
    assert boxes(page) == before


@pytest.mark.parametrize("javascript", [True, False])
def test_a_vote_without_cookies_says_that_they_are_needed(site, visitors, javascript):
    visitors.expect_status(400)
    page = visitors.open(site.vote, javascript=javascript)
    page.context.clear_cookies()
    choose(page, "a")
    expect(page.get_by_role("alert")).to_contain_text("Your browser has to accept cookies")
    expect(page.get_by_role("alert")).to_contain_text("Your vote was not recorded")
    expect_choice(page, "")
    page.goto(site.vote)
    choose(page, "a")
    expect_receipt(page, "is counted")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_closed_poll_says_so_and_keeps_the_choice(site, visitors, javascript):
    visitors.expect_status(409)
    page, result = visitors.open(site.vote, javascript=javascript), visitors.open(site.result)
    choose(page, "a")
    expect_receipt(page, "is counted")
    site.up.close_poll()
    choose(page, "b")
    expect(page.get_by_role("alert")).to_contain_text("Voting is closed.")
    expect(page.get_by_role("alert")).to_contain_text("This vote was not recorded")
    expect_choice(page, "a")
    expect_totals(result, 1, 0)


def test_the_result_keeps_the_last_totals_and_tells_since_when(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_totals(result, 1, 0)
    note = result.locator("#tally .notes [role=status]")
    with site.up.frozen("postgres -D"):
        choose(page, "b")
        expect_receipt(page, "Dogs", "is recorded")  # Redis takes it
        expect(note).to_contain_text("These totals are old")
        expect(result.locator(".updated")).to_have_text(re.compile(r"^Updated [1-9]\d* s ago$"))
        expect_totals(result, 1, 0)
    expect_totals(result, 0, 1)
    expect(note).to_have_count(0)
    expect_receipt(page, "Dogs", "is counted")


def test_a_vote_without_an_answer_is_said_to_be_unknown(site, visitors):
    visitors.expect_no_answer()
    page = visitors.open(site.vote, viewport=PHONE)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    before = boxes(page)
    alert = page.get_by_role("alert")
    page.route("**/vote", lambda route: route.abort())
    choose(page, "b")
    expect(alert).to_contain_text("We don't know whether your vote was recorded")
    expect(page.locator(RECEIPT)).to_have_text("")
    expect_choice(page, "a")
    assert boxes(page) == before
    choose(page, "b")
    page.unroute("**/vote")
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_choice(page, "b")
    expect(alert).to_have_count(0)


def test_a_result_without_an_answer_says_since_when_it_may_be_old(site, visitors):
    visitors.expect_no_answer()
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_totals(result, 1, 0)
    result.route("**/tally", lambda route: route.abort())
    note = result.locator("#tally .notes [role=status]")
    expect(note).to_contain_text("These totals may be old: there is no answer.")
    expect(result.locator(".updated")).to_have_text(re.compile(r"^Updated [1-9]\d* s ago$"))
    expect_totals(result, 1, 0)
    result.unroute("**/tally")
    expect(note).to_have_count(0)


def test_an_error_page_of_a_proxy_takes_the_place_of_nothing(site, visitors):
    visitors.expect_status(502)
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    for each, part in ((page, "vote"), (result, "tally")):
        each.route(f"**/{part}", lambda route: route.fulfill(status=502, body="Bad Gateway"))
    choose(page, "b")
    expect(page.get_by_role("alert")).to_contain_text("We don't know whether your vote")
    expect_choice(page, "a")
    expect(result.locator("#tally .notes [role=status]")).to_contain_text("may be old")
    expect_totals(result, 1, 0)
    for each, part in ((page, "vote"), (result, "tally")):
        each.unroute(f"**/{part}")
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_totals(result, 0, 1)
    expect(result.locator("#tally .notes [role=status]")).to_have_count(0)


def test_a_page_that_is_not_there_says_so(site, visitors):
    visitors.expect_status(404)
    page = visitors.open(site.vote + "/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("There is no such page.")
    page.get_by_role("link").click()
    expect(page.locator("#ballot")).to_be_visible()
