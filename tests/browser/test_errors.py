"""Pages while a server is down, the poll is closed, or cookies are disabled."""

import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie

import httpx
import pytest
from playwright.sync_api import Page, expect
from support.wait import DEADLINE

from .pages import PHONE, RECEIPT, choose, expect_choice, expect_receipt, expect_totals, hide


def boxes(page: Page) -> list[object]:
    """Return the positions and sizes of the two buttons."""
    return [page.locator(f"#choice-{key}").bounding_box() for key in "ab"]


def test_an_error_says_whether_the_vote_was_recorded_and_moves_no_button(site, visitors):
    visitors.expect_status(503)
    page = visitors.open(site.vote, viewport=PHONE)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    before = boxes(page)
    alert = page.get_by_role("alert")
    with site.up.redis_client() as client, ExitStack() as exits:
        client.client_pause(60_000, all=False)  # it reads a vote and does not answer
        exits.callback(client.client_unpause)
        choose(page, "b")
        expect(alert).to_contain_text("We don't know whether your vote was recorded")
        expect(alert).to_be_in_viewport(ratio=1)
        expect_choice(page, "")
        expect(page.locator("#choice-b")).to_be_focused()
        assert boxes(page) == before
        exits.callback(client.config_set, "min-replicas-to-write", 0)
        client.config_set("min-replicas-to-write", 1)
        client.client_unpause()
        choose(page, "b")
        expect(alert).to_contain_text("Your vote was not recorded")
        expect_choice(page, "")  # the one before may be
        assert boxes(page) == before
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_choice(page, "b")
    expect(alert).to_have_count(0)
    assert boxes(page) == before


RESPONSES = {
    "none": lambda route: route.abort(),
    "from a proxy": lambda route: route.fulfill(status=502, body="Bad Gateway"),
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_without_a_response_of_the_app_the_pages_keep_what_they_show(site, visitors, response):
    visitors.expect_no_response()
    visitors.expect_status(502)
    page, result = visitors.open(site.vote, viewport=PHONE), visitors.open(site.result)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    expect_totals(result, 1, 0)
    before = boxes(page)
    alert, note = page.get_by_role("alert"), result.locator("#tally .notes [role=status]")

    page.route("**/vote", response)
    choose(page, "b")
    expect(alert).to_contain_text("We don't know whether your vote was recorded")
    expect(page.locator(RECEIPT)).to_have_text("")
    expect_choice(page, "")
    assert boxes(page) == before
    result.route("**/tally", response)
    expect(note).to_contain_text("These totals may be old: there is no answer.")
    expect(result.locator(".updated")).to_have_text(re.compile(r"^Updated [1-9]\d* s ago$"))
    expect_totals(result, 1, 0)

    page.unroute("**/vote")
    result.unroute("**/tally")
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect_choice(page, "b")
    expect(alert).to_have_count(0)
    expect_totals(result, 0, 1)
    expect(note).to_have_count(0)


def test_a_reload_after_a_lost_answer_shows_no_earlier_receipt(site, visitors):
    visitors.expect_no_response()
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")

    def lose_the_answer(route):
        headers = route.request.all_headers()
        answer = httpx.post(route.request.url, headers=headers, content=route.request.post_data)
        assert answer.headers["voting-recorded"] == "yes"
        route.abort()

    page.route("**/vote", lose_the_answer)
    choose(page, "b")
    expect(page.get_by_role("alert")).to_contain_text("We don't know whether")
    expect_totals(result, 0, 1)
    page.unroute("**/vote")
    another = page.context.new_page()  # as a second tab
    for each in (page, another):
        each.goto(site.vote)
        expect(each.get_by_role("alert")).to_contain_text("We don't know whether")
        expect(each.locator(RECEIPT)).to_have_text("")
        expect_choice(each, "")
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    another.reload()
    expect_receipt(another, "Cats", "is counted")
    expect_totals(result, 1, 0)


def test_a_vote_tells_when_it_was_sent_whatever_the_clock_of_the_browser_shows(site, visitors):
    """Votes that are too old are refused: see `MAX_AGE` of the vote role."""
    page = visitors.open(site.vote)
    page.clock.set_system_time(datetime.now(UTC) - timedelta(hours=5))
    page.reload()
    with page.expect_request("**/vote") as sent:
        choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    cookies = SimpleCookie(sent.value.all_headers()["cookie"])
    [cookie] = [each.value for name, each in cookies.items() if name.startswith("unanswered")]
    first, last = map(int, cookie.split("."))
    assert first == last
    assert abs(last / 1000 - time.time()) < DEADLINE
    kept = {each["name"].partition("-")[0] for each in page.context.cookies()}
    assert kept == {"voter", "ballot"}


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
def test_a_vote_for_a_closed_poll_is_refused_and_the_choice_kept(site, visitors, javascript):
    visitors.expect_status(409)
    page, result = visitors.open(site.vote, javascript=javascript), visitors.open(site.result)
    choose(page, "a")
    expect_receipt(page, "is counted")
    if javascript:
        hide(page, hidden=True)  # it does not poll
    site.up.close_poll()
    choose(page, "b")
    expect(page.get_by_role("alert")).to_contain_text("Voting is closed.")
    expect(page.get_by_role("alert")).to_contain_text("This vote was not recorded")
    expect_choice(page, "a")
    expect_totals(result, 1, 0)


def test_the_result_shows_the_age_of_its_totals_while_postgres_hangs(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "a")
    expect_totals(result, 1, 0)
    note = result.locator("#tally .notes [role=status]")
    with site.up.frozen("postgres -D"):
        choose(page, "b")
        expect_receipt(page, "Dogs", "is recorded")
        expect(note).to_contain_text("These totals are old")
        expect(result.locator(".updated")).to_have_text(re.compile(r"^Updated [1-9]\d* s ago$"))
        expect_totals(result, 1, 0)
    expect_totals(result, 0, 1)
    expect(note).to_have_count(0)
    expect_receipt(page, "Dogs", "is counted")


def test_a_missing_page_links_to_the_vote_page(site, visitors):
    visitors.expect_status(404)
    page = visitors.open(site.vote + "/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("There is no such page.")
    page.get_by_role("link").click()
    expect(page.locator("#ballot")).to_be_visible()
