"""The pages in a real browser."""

from browser.pages import choose, expect_choice, expect_receipt
from playwright.sync_api import expect
from support.wait import wait_for

from voting.poll.question import Question


def test_a_vote_updates_an_open_result_page(target, visitors, question):
    before = target.counted().total()
    page = visitors.open(target.address("vote"))
    result = visitors.open(target.address("result"))
    result.evaluate("window.loaded = 'once'")
    choose(page, "c")
    expect_choice(page, "c")
    expect_receipt(page, question.name("c"), "is counted")
    wait_for("the vote to be counted", lambda: target.tally().total() == before + 1)
    voters = "1 voter" if before == 0 else f"{before + 1:,} voters"
    expect(result.locator(".turnout")).to_have_text(voters)
    assert result.evaluate("window.loaded") == "once"


def test_open_pages_follow_the_next_question(target, visitors, question):
    pages = [visitors.open(target.address(name)) for name in ("vote", "result")]
    for page in pages:
        expect(page.locator("h1")).to_have_text(question.title)
        page.evaluate("window.loaded = 'once'")
    following = Question("Bread, rice or pasta?", ("Bread", "Rice", "Pasta"))
    try:
        target.command("ask", following.title, *following.names, "--yes")
        for page in pages:
            expect(page.locator("h1")).to_have_text(following.title)
        choose(pages[0], "b")
        expect_receipt(pages[0], "Rice", "is counted")
        expect(pages[1].locator(".turnout")).to_have_text("1 voter")
    finally:
        target.ask(question)
    for page in pages:
        expect(page.locator("h1")).to_have_text(question.title)
        assert page.evaluate("window.loaded") == "once"


def test_the_pages_link_to_each_other(target, visitors):
    page, result = (visitors.open(target.address(name)) for name in ("vote", "result"))
    page.get_by_role("link", name="result").click()
    page.wait_for_url(f"{target.address('result')}/")
    result.get_by_role("link", name="vote").click()
    result.wait_for_url(f"{target.address('vote')}/")
