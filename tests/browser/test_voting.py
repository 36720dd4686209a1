"""Voters vote."""

import contextlib
import re

import pytest
from playwright.sync_api import Error, expect

from .pages import POLL, RECEIPT, choose, expect_choice, expect_receipt, expect_totals, hold


def test_a_choice_is_marked_as_sending_until_the_response(site, visitors):
    page = visitors.open(site.vote)
    cats, dogs = (page.locator(f"#choice-{key}") for key in "ab")
    held = hold(page, "**/vote")
    choose(page, "a")
    expect(cats).to_have_class("choice a sending")
    expect(dogs).to_have_class("choice b resting")
    expect_choice(page, "")
    expect_receipt(page, "Pick one")
    held[0].continue_()
    expect_choice(page, "a")
    for each in (cats, dogs):
        expect(each).not_to_have_class(re.compile("sending|resting"))


def test_a_receipt_is_queued_until_a_worker_has_counted_the_vote(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    with site.up.frozen("worker"):
        choose(page, "a")
        for _ in range(3):
            expect_choice(page, "a")
            expect_receipt(page, "Queued", "Cats", "is recorded and will be counted in a moment")
            with page.expect_request(POLL):
                pass
        page.reload()
        expect_choice(page, "a")
        expect_receipt(page, "Queued", "is recorded and will be counted")
        expect(result.locator(".turnout")).to_have_text("No votes yet.")
    expect_receipt(page, "Counted", "Cats", "is counted.")
    expect_totals(result, 1, 0)


def test_each_browser_is_a_voter_and_its_tabs_are_the_same_voter(site, visitors):
    first, second = visitors.open(site.vote), visitors.open(site.vote)
    result = visitors.open(site.result)
    choose(first, "a")
    choose(second, "a")
    expect_totals(result, 2, 0)
    tab = second.context.new_page()
    tab.goto(site.vote)
    choose(tab, "b")
    expect_totals(result, 1, 1)
    expect_choice(first, "a")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_is_enough_to_vote(site, visitors, key):
    page = visitors.open(site.vote)
    page.keyboard.press("Tab")
    expect(page.locator("#choice-a")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press(key)
    expect_choice(page, "b")
    expect_receipt(page, "is counted")
    expect(page.locator("#choice-b")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press(key)
    expect_choice(page, "a")


def test_focus_and_the_status_element_survive_a_response(site, visitors):
    page = visitors.open(site.vote)
    # A screen reader speaks what changes inside an element that it already knows.
    page.locator(RECEIPT).evaluate("element => window.known = element")
    for choice in "abb":
        choose(page, choice)
        expect_choice(page, choice)
        expect_receipt(page, "is counted")
        expect(page.locator(f"#choice-{choice}")).to_be_focused()
        assert page.locator(RECEIPT).evaluate("element => window.known === element")


def test_a_double_click_is_one_vote(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    page.locator("#choice-a").dblclick()
    expect_receipt(page, "is counted")
    expect_choice(page, "a")
    expect_totals(result, 1, 0)


def test_of_quick_clicks_only_the_first_and_the_last_are_sent(site, visitors):
    page = visitors.open(site.vote)
    sent: list[str | None] = []
    page.on("request", lambda request: sent.append(request.post_data))
    held = hold(page, "**/vote")
    for choice in "aba":
        choose(page, choice)
    held[0].continue_()
    expect_receipt(page, "Cats", "is counted")
    expect_choice(page, "a")
    form = f"round={page.locator('[name=round]').input_value()}&choice=a"
    assert [each for each in sent if each] == [form, form]


def test_a_late_receipt_of_the_previous_vote_is_discarded(site, visitors):
    page = visitors.open(site.vote)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    ballot = page.request.get(site.vote, headers={"HX-Request": "true"}).text()
    with page.expect_request(POLL):
        held = hold(page, POLL)
    with page.expect_response("**/vote"):
        choose(page, "b")
    expect_choice(page, "b")
    with contextlib.suppress(Error):  # the browser has cancelled that request
        held[0].fulfill(body=ballot, headers={"Voting-Fragment": "1"}, content_type="text/html")
    expect_receipt(page, "Dogs", "is counted")


def test_the_pages_work_without_javascript(site, visitors):
    page = visitors.open(site.vote, javascript=False)
    result = visitors.open(site.result, javascript=False)
    expect(result.locator(".turnout")).to_have_text("No votes yet.")
    for choice, name in (("a", "Cats"), ("b", "Dogs")):
        with page.expect_response("**/vote") as response:
            choose(page, choice)
        assert response.value.status == 303
        expect(page).to_have_url(re.compile("/$"))
        expect_choice(page, choice)
        # Both pages reload themselves.
        expect_receipt(page, name, "is counted")
        expect_totals(result, int(choice == "a"), int(choice == "b"))
