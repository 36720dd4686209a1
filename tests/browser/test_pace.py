"""When the pages ask, and that they say only what they know."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, expect

from .pages import choose, expect_choice, expect_receipt, expect_totals

# What a browser does with a tab that nobody looks at.
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true})
    document.dispatchEvent(new Event("visibilitychange"))
}"""


def expect_asks(page: Page, part: str) -> None:
    with page.expect_request(f"**/{part}"):
        pass


def test_a_choice_is_shown_on_its_way_before_the_answer(site, visitors):
    page = visitors.open(site.vote)
    cats, dogs = (page.locator(f"#choice-{key}") for key in "ab")
    held: list[Route] = []
    page.route("**/vote", lambda route: held.append(route), times=1)  # noqa: PLW0108 - it must
    choose(page, "a")
    expect(cats).to_have_class("choice a sending")
    expect(dogs).to_have_class("choice b resting")
    expect_choice(page, "")  # it is not said to be more than it is
    expect_receipt(page, "Pick one")
    held[0].continue_()
    expect_choice(page, "a")
    for each in (cats, dogs):
        expect(each).not_to_have_class(re.compile("sending|resting"))


def test_a_receipt_stays_queued_until_a_worker_has_counted(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    with site.up.frozen("worker"):
        choose(page, "a")
        expect_receipt(page, "Queued", "Cats", "is recorded and will be counted in a moment")
        for _ in range(3):  # as often as it asks
            expect_asks(page, "receipt")
            expect_receipt(page, "Queued", "is recorded and will be counted")
        page.reload()
        expect_receipt(page, "Queued", "is recorded and will be counted")
        expect(result.locator(".turnout")).to_have_text("No votes yet.")
    expect_receipt(page, "Counted", "Cats", "is counted.")
    expect_totals(result, 1, 0)


def test_a_page_that_nobody_sees_asks_nothing_and_then_at_once(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    expect_asks(result, "tally")
    result.evaluate(HIDE, True)  # noqa: FBT003 - the one argument
    asked: list[str] = []
    result.on("request", lambda request: asked.append(request.url))
    choose(page, "a")
    expect_receipt(page, "is counted")
    page.reload()
    expect_receipt(page, "is counted")
    assert asked == []
    result.evaluate(HIDE, False)  # noqa: FBT003
    expect_totals(result, 1, 0)


def test_a_page_asks_ever_more_seldom_while_nobody_answers(site, visitors):
    visitors.expect_no_answer()
    result = visitors.open(site.result)
    result.clock.install()
    result.reload()
    result.route("**/tally", lambda route: route.abort())
    asked: list[str] = []
    result.on("request", lambda request: asked.append(urlsplit(request.url).path))
    for _ in range(40):  # seconds, but for each pause until the failure is known
        result.clock.run_for(1000)
    assert 3 <= asked.count("/tally") <= 12
    result.unroute("**/tally")
    result.evaluate(HIDE, False)  # noqa: FBT003 - who comes back need not wait
    expect(result.locator("#tally .notes")).to_be_empty()


def test_the_title_tells_who_leads_and_a_screen_reader_hears_the_totals(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    expect(result).to_have_title("Cats or Dogs? · Result")
    spoken = result.locator("#spoken")
    expect(spoken).to_have_text("")  # the page itself is read
    result.clock.install()
    choose(page, "b")
    expect_totals(result, 0, 1)
    expect(result).to_have_title("Dogs 100.0 % · Cats or Dogs? · Result")
    assert spoken.text_content() == ""  # not with each change
    choose(page, "a")
    expect_totals(result, 1, 0)
    result.clock.fast_forward("00:31")
    choose(page, "b")
    expect(spoken).to_have_text("Cats 0.0 %, Dogs 100.0 %. 1 voter")
    result.reload()
    expect(result).to_have_title("Dogs 100.0 % · Cats or Dogs? · Result")


def test_who_leads_and_by_how_much(site, visitors):
    first, second = visitors.open(site.vote), visitors.open(site.vote)
    result = visitors.open(site.result)
    leads = [result.locator(f".row.{key} .lead") for key in "ab"]
    for each in leads:
        expect(each).to_have_text("")
    choose(first, "a")
    expect(leads[0]).to_have_text("leading by 1")
    expect(leads[1]).to_have_text("")
    choose(second, "b")
    for each in leads:
        expect(each).to_have_text("a tie")
