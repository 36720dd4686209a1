"""Voting and watching, as people do it."""

import contextlib
import re
import time

import pytest
from playwright.sync_api import Error, Route, expect

from .pages import RECEIPT, choose, expect_choice, expect_receipt, expect_totals


def test_a_click_shows_the_choice_at_once_and_then_that_it_is_counted(site, visitors):
    page = visitors.open(site.vote)
    expect_receipt(page, "Pick one")
    with site.up.frozen("postgres -D"):  # so that nothing is counted yet
        choose(page, "a")
        expect_choice(page, "a")
        expect_receipt(page, "Cats", "is recorded and will be counted in a moment")
    expect_receipt(page, "Cats", "is counted")
    expect_choice(page, "a")


def test_the_result_shows_a_vote_without_a_reload(site, visitors, capsys):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    expect(result.locator(".turnout")).to_have_text("No votes yet.")
    result.evaluate("""() => new MutationObserver(() => {
        if (document.querySelector(".turnout").textContent.includes("1 voter"))
            window.seen ??= Date.now()
    }).observe(document.body, {childList: true, subtree: true, characterData: true})""")
    clicked = time.time()
    choose(page, "b")
    expect(result.locator(".turnout")).to_have_text("1 voter")
    expect_totals(result, 0, 1)
    expect(result.locator(".row.b .share")).to_have_text("100.0 %")
    expect(result.locator(".fill.b")).to_have_attribute("width", "100.0%")
    seconds = result.evaluate("window.seen") / 1000 - clicked  # null after a reload
    with capsys.disabled():
        print(f"\nfrom the click to the result: {seconds:.2f} s")  # noqa: T201 - asked for


def test_changing_ones_mind_is_one_click_and_moves_the_vote(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_totals(result, 1, 0)
    choose(page, "b")
    expect_choice(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_totals(result, 0, 1)
    expect(result.locator(".turnout")).to_have_text("1 voter")


def test_ones_choice_is_marked_after_a_reload(site, visitors):
    page = visitors.open(site.vote)
    choose(page, "b")
    expect_choice(page, "b")
    page.reload()
    expect_choice(page, "b")
    expect_receipt(page, "Dogs", "is counted")


def test_two_browsers_are_two_voters(site, visitors):
    first, second = visitors.open(site.vote), visitors.open(site.vote)
    result = visitors.open(site.result)
    choose(first, "a")
    choose(second, "a")
    expect_totals(result, 2, 0)
    choose(second, "b")
    expect_totals(result, 1, 1)
    expect_choice(first, "a")


def test_two_tabs_of_a_browser_are_one_voter(site, visitors):
    first, result = visitors.open(site.vote), visitors.open(site.result)
    second = first.context.new_page()
    second.goto(site.vote)
    choose(first, "a")
    expect_totals(result, 1, 0)
    choose(second, "b")
    expect_totals(result, 0, 1)


def test_before_the_first_vote_the_result_shows_no_percentage(site, visitors):
    result = visitors.open(site.result)
    expect(result.locator(".turnout")).to_have_text("No votes yet.")
    expect_totals(result, 0, 0)
    assert "%" not in result.locator("main").inner_text()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_alone_can_vote(site, visitors, key):
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


def test_focus_and_the_spoken_status_survive_the_answer(site, visitors):
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


def test_of_quick_clicks_the_last_is_sent_when_the_first_is_answered(site, visitors):
    page = visitors.open(site.vote)
    sent: list[str | None] = []
    page.on("request", lambda request: sent.append(request.post_data))
    with site.up.frozen("vote"):
        for choice in "aba":
            choose(page, choice)
    expect_receipt(page, "Cats", "is counted")
    expect_choice(page, "a")
    assert [each for each in sent if each] == ["choice=a", "choice=a"]


def test_a_late_receipt_does_not_speak_of_the_vote_before(site, visitors):
    page = visitors.open(site.vote)
    held: list[Route] = []
    page.route("**/receipt", lambda route: held.append(route), times=1)  # noqa: PLW0108 - it must
    with page.expect_request("**/receipt"):
        choose(page, "a")
    with page.expect_response("**/vote"):
        choose(page, "b")
    expect_choice(page, "b")
    answer = '<p id="receipt" role="status">Your vote for Cats is counted.</p>'
    with contextlib.suppress(Error):  # the browser has given that request up
        held[0].fulfill(body=answer, content_type="text/html")
    expect_receipt(page, "Dogs", "is counted")


def test_without_javascript_all_works_too(site, visitors):
    page = visitors.open(site.vote, javascript=False)
    result = visitors.open(site.result, javascript=False)
    expect(result.locator(".turnout")).to_have_text("No votes yet.")
    for choice, name in (("a", "Cats"), ("b", "Dogs")):
        with page.expect_response("**/vote") as answer:
            choose(page, choice)
        assert answer.value.status == 303
        expect(page).to_have_url(re.compile("/$"))
        expect_choice(page, choice)
        # Both pages load themselves again.
        expect_receipt(page, name, "is counted")
        expect_totals(result, int(choice == "a"), int(choice == "b"))
