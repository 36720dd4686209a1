"""The pages in a real browser."""

from browser.pages import choose, expect_choice, expect_receipt
from playwright.sync_api import expect
from support.wait import wait_for


def test_a_vote_updates_an_open_result_page(target, visitors):
    before = target.counted().total()
    page = visitors.open(target.address("vote"))
    result = visitors.open(target.address("result"))
    result.evaluate("window.loaded = 'once'")
    choose(page, "a")
    expect_choice(page, "a")
    expect_receipt(page, "Cats", "is counted")
    wait_for("the vote to be counted", lambda: target.tally().total() == before + 1)
    voters = "1 voter" if before == 0 else f"{before + 1:,} voters"
    expect(result.locator(".turnout")).to_have_text(voters)
    assert result.evaluate("window.loaded") == "once"


def test_the_pages_link_to_each_other(target, visitors):
    page, result = (visitors.open(target.address(name)) for name in ("vote", "result"))
    page.get_by_role("link", name="result").click()
    page.wait_for_url(f"{target.address('result')}/")
    result.get_by_role("link", name="vote").click()
    result.wait_for_url(f"{target.address('vote')}/")
