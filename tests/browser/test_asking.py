"""Pages that are open when the next question is asked."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect
from support.environ import ENVIRON
from support.wait import wait_for

from .pages import POLL, RECEIPT, choose, expect_choice, expect_receipt, hide

FIRST = ("Cats or Dogs?", "Cats", "Dogs")
NEXT = ("And to drink?", "Tea", "Coffee", "Water")
OVER = "That question is over. Your vote was not recorded. Here is the next one: please choose."

# Whether a click at the first choice would reach it at the moment when the question is replaced.
WATCH = """() => {
    const {round} = document.querySelector("#ballot").dataset
    document.addEventListener("htmx:after:swap", () => {
        if (document.querySelector("#ballot").dataset.round === round) return
        const {x, y} = document.querySelector(".choice").getBoundingClientRect()
        window.reached ??= document.elementFromPoint(x + 20, y + 20).closest(".choice") !== null
    })
}"""


@pytest.fixture
def ask(site) -> Iterator[Callable[..., None]]:
    """Ask the next question as an operator does; the first one is asked again after the test."""

    def ask(*question: str) -> None:
        command = [sys.executable, "-P", "-m", "voting", "ask", *question, "--yes"]
        subprocess.run([*command, "--data", str(site.up.data)], env=ENVIRON, check=True)

    yield ask
    ask(*FIRST)


def expect_question(page: Page, title: str, *names: str, timeout: float | None = None) -> None:
    expect(page.locator("h1")).to_have_text(title, timeout=timeout)
    expect(page).to_have_title(title)
    expect(page.locator(".choice .name")).to_have_text(names)


def sent(page: Page) -> list[str | None]:
    """Record the votes that the page sends from now on."""
    votes: list[str | None] = []
    page.on("request", lambda each: votes.append(each.post_data) if each.post_data else None)
    return votes


def test_an_open_page_has_the_next_question_within_two_seconds(site, visitors, ask):
    page, idle = (visitors.open(site.vote) for _ in range(2))
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    idle.get_by_role("link").focus()
    for each in (page, idle):
        each.evaluate("window.known = true")
    page.evaluate(WATCH)
    ask(*NEXT)
    for each in (page, idle):
        expect_question(each, *NEXT, timeout=2000)
        expect_choice(each, "")
        expect_receipt(each, "Pick one.")
        expect(each.locator(".sending, .resting")).to_have_count(0)
    assert page.evaluate("window.reached") is False
    # Screen readers read what gets the focus, or what is said elsewhere.
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator("#spoken")).to_be_empty()
    expect(idle.get_by_role("link")).to_be_focused()
    expect(idle.locator("#spoken")).to_have_text(NEXT[0])
    choose(page, "c")
    expect_receipt(page, "Water", "is counted")
    assert page.evaluate("window.known")  # no reload


def test_the_title_gets_the_focus_that_a_choice_lost_when_the_poll_was_closed(site, visitors, ask):
    page = visitors.open(site.vote)
    choose(page, "a")
    site.up.close_poll()
    expect_receipt(page, "Voting is closed.")
    expect(page.locator("#choice-a")).not_to_be_focused()
    ask(*NEXT)
    expect_question(page, *NEXT)
    expect(page.locator("h1")).to_be_focused()
    expect(page.locator("#spoken")).to_be_empty()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_vote_of_a_page_that_is_behind_counts_for_no_question(site, visitors, ask, key):
    visitors.expect_status(409)
    page = visitors.open(site.vote)
    hide(page, hidden=True)  # it does not poll
    page.evaluate(WATCH)
    ask(*NEXT)
    expect_question(page, *FIRST)
    votes = sent(page)
    page.locator("#choice-a").focus()
    page.keyboard.press(key)
    expect(page.get_by_role("alert")).to_have_text(OVER, use_inner_text=True)
    expect_question(page, *NEXT)
    expect_choice(page, "")
    expect(page.locator(RECEIPT)).to_have_text("")
    expect(page.locator(".sending, .resting")).to_have_count(0)
    assert page.evaluate("window.reached") is False
    expect(page.locator("h1")).to_be_focused()
    page.keyboard.press(key)  # as one who presses it twice
    with page.expect_request(POLL):
        hide(page, hidden=False)
    assert len(votes) == 1
    result = visitors.open(site.result)
    expect(result.locator(".turnout")).to_have_text("No votes yet.")
    # Polls leave the message where it is.
    for _ in range(2):
        with page.expect_response(POLL):
            pass
    expect(page.get_by_role("alert")).to_be_visible()
    choose(page, "b")
    expect_receipt(page, "Coffee", "is counted")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(result.locator(".turnout")).to_have_text("1 voter")


def test_the_message_about_an_earlier_question_goes_with_the_next(site, visitors, ask):
    visitors.expect_status(409)
    page = visitors.open(site.vote)
    hide(page, hidden=True)  # it does not poll
    ask(*NEXT)
    choose(page, "a")
    expect(page.get_by_role("alert")).to_contain_text("That question is over.")
    hide(page, hidden=False)
    ask(*FIRST)
    expect_question(page, *FIRST)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect_receipt(page, "Pick one.")


def test_without_javascript_a_page_that_is_behind_gets_the_next_question(site, visitors, ask):
    visitors.expect_status(409)
    page = visitors.open(site.vote, javascript=False)
    ask(*NEXT)
    with page.expect_response("**/vote") as response:
        choose(page, "a")
    assert response.value.status == 409
    expect(page.get_by_role("alert")).to_have_text(OVER, use_inner_text=True)
    expect_question(page, *NEXT)
    expect_choice(page, "")
    choose(page, "c")
    expect_receipt(page, "Water", "is counted")
    expect_choice(page, "c")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_page_without_a_question_shows_it_once_it_is_known(site, visitors, javascript):
    visitors.expect_status(503)
    open_page = visitors.open(site.vote)
    with site.up.frozen("worker"):
        with site.up.redis_client() as client:
            client.delete("{voting}:poll")
        wait_for("the role to know", lambda: httpx.get(site.vote).status_code == 503)
        page = visitors.open(site.vote, javascript=javascript)
        expect(page.get_by_role("alert")).to_contain_text("We can't take votes right now.")
        expect(page.locator("form")).to_have_count(0)
        with open_page.expect_response(POLL) as response:
            pass
        assert response.value.status == 204
        expect_question(open_page, *FIRST)
    expect_question(page, *FIRST)
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")


def test_an_open_page_keeps_its_question_while_redis_does_not_know_it(site, visitors):
    visitors.expect_status(503)
    page = visitors.open(site.vote)
    alert = page.get_by_role("alert")
    with site.up.frozen("worker"):
        with site.up.redis_client() as client:
            client.delete("{voting}:poll")
        wait_for("the role to know", lambda: httpx.get(site.vote).status_code == 503)
        choose(page, "a")
        expect(alert).to_contain_text("Your vote was not recorded.")
        expect_question(page, *FIRST)
        expect(page.locator(".sending, .resting")).to_have_count(0)
        with page.expect_response(POLL) as response:
            pass
        assert response.value.status == 204
    wait_for("the question", lambda: httpx.get(site.vote).status_code == 200)
    for _ in range(2):  # polls leave the message where it is
        with page.expect_response(POLL):
            pass
    expect(alert).to_contain_text("Your vote was not recorded.")
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    expect(alert).to_have_count(0)


def test_the_loss_of_the_queue_is_told_in_place_of_an_earlier_problem(site, visitors):
    visitors.expect_status(503)
    page = visitors.open(site.vote)
    alert = page.get_by_role("alert")
    choose(page, "a")
    expect_receipt(page, "Cats", "is counted")
    with site.up.frozen("worker"):
        with site.up.redis_client() as client:
            client.delete("{voting}:poll", "{voting}:ballots")
        wait_for("the role to know", lambda: httpx.get(site.vote).status_code == 503)
        choose(page, "b")
        expect(alert).to_contain_text("Your vote was not recorded.")
    expect(alert).to_contain_text("Your vote may be lost.")
    choose(page, "b")
    expect_receipt(page, "Dogs", "is counted")
    expect(alert).to_have_count(0)
