"""The result page while votes are counted and the poll closes."""

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import expect

from .conftest import OPEN
from .pages import choose, expect_choice, expect_receipt, expect_totals
from .states import CLOSE, FINISH, LUNCH


def test_the_result_follows_votes_without_a_reload(site, visitors):
    first, second = visitors.open(site.vote), visitors.open(site.vote)
    result = visitors.open(site.result)
    turnout = result.locator(".turnout")
    leads = [result.locator(f".row.{key} .lead") for key in "ab"]
    result.evaluate("window.loaded = 'once'")
    expect(turnout).to_have_text("No votes yet.")
    expect_totals(result, 0, 0)
    assert "%" not in result.locator("main").inner_text()
    choose(first, "b")
    expect(turnout).to_have_text("1 voter")
    expect_totals(result, 0, 1)
    expect(result.locator(".row.b .share")).to_have_text("100.0 %")
    expect(result.locator(".fill.b")).to_have_attribute("width", "100.0%")
    expect(leads[1]).to_have_text("leading by 1")
    expect(leads[0]).to_have_text("")
    choose(second, "a")
    for each in leads:
        expect(each).to_have_text("a tie")
    choose(first, "a")
    expect_totals(result, 2, 0)
    expect(turnout).to_have_text("2 voters")
    assert result.evaluate("window.loaded") == "once"


def test_the_title_names_the_leader_and_totals_are_spoken_every_half_minute(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    expect(result).to_have_title("Cats or Dogs? · Result")
    spoken = result.locator("#spoken")
    expect(spoken).to_have_text("")  # a screen reader reads the page itself
    choose(page, "b")
    expect_totals(result, 0, 1)
    expect(result).to_have_title("Dogs 100.0 % · Cats or Dogs? · Result")
    assert spoken.text_content() == ""
    choose(page, "a")
    expect_totals(result, 1, 0)
    # Timers stay as they are: one of them would time out a poll.
    result.clock.set_system_time(datetime.now(UTC) + timedelta(seconds=31))
    choose(page, "b")
    expect(spoken).to_have_text("Cats 0.0 %, Dogs 100.0 %. 1 voter")
    result.reload()
    expect(result).to_have_title("Dogs 100.0 % · Cats or Dogs? · Result")


def test_the_next_question_is_shown_and_announced_at_once_and_the_last_one_kept(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "b")
    expect_totals(result, 0, 1)
    expect(result.locator("svg.drawing")).to_be_attached()
    result.evaluate("window.loaded = 'once'")
    site.ask(LUNCH)
    expect(result.locator("h1")).to_have_text(LUNCH.title, timeout=2500)
    expect(result.locator(".row .name")).to_have_text(LUNCH.names)
    expect(result).to_have_title(f"{LUNCH.title} · Result")
    said = f"{LUNCH.title} {', '.join(LUNCH.names)}. No votes yet."
    expect(result.locator("#spoken")).to_have_text(said)
    expect(result.locator("p.drawing")).to_be_attached(timeout=2500)
    expect_choice(page, "")
    choose(page, "c")
    expect(result.locator(".row.c.leading .votes")).to_have_text("1 vote")
    expect(result.locator("svg.drawing")).to_be_attached()
    assert result.evaluate("window.loaded") == "once"

    result.get_by_role("link", name="All rounds").click()
    expect(result.locator("li.leading")).to_have_text("Dogs 100.0 %", use_inner_text=True)
    result.get_by_role("link", name="Cats or Dogs?").click()
    expect(result.locator(".phase")).to_contain_text("Final result")
    expect_totals(result, 0, 1)
    expect(result.locator(".row.b .lead")).to_have_text("won by 1")
    expect(result.locator("svg.drawing")).to_be_attached()
    with result.expect_download() as download:
        result.get_by_role("link", name="CSV").click()
    assert "Dogs" in download.value.path().read_text()


def test_a_hidden_result_becomes_final_and_hidden_again_without_a_reload(hidden_site, visitors):
    page, result = visitors.open(hidden_site.vote), visitors.open(hidden_site.result)
    phase, turnout = result.locator(".phase"), result.locator(".turnout")
    phase.evaluate("element => window.known = element")
    expect(phase).to_have_text("The result is shown when voting closes.")
    expect(turnout).to_have_text("No votes yet.")
    choose(page, "a")
    expect_receipt(page, "is counted")
    expect(turnout).to_have_text("1 person has voted.")
    expect(result.locator(".counts, .bar")).to_have_count(0)

    with hidden_site.up.frozen("worker"):  # it would change the poll too
        hidden_site.up.sql(CLOSE)
        expect(phase).to_have_text("Voting is closed. Counting the last votes.")
        expect_totals(result, 1, 0)
        hidden_site.up.sql(FINISH)
        expect(phase).to_have_text(re.compile(r"^Final result of \d+ \w+ \d{4}, \d\d:\d\d UTC$"))
        expect_totals(result, 1, 0)

        screen = visitors.open(f"{hidden_site.result}/screen")
        expect(screen.locator(".phase")).to_contain_text("Final result")
        hidden_site.up.sql(OPEN)
        # Pages with a final result poll on.
        for each in (screen.locator(".phase"), phase):
            expect(each).to_have_text("The result is shown when voting closes.")
        expect(result.locator(".counts, .bar")).to_have_count(0)
    assert phase.evaluate("element => window.known === element")


def test_a_click_downloads_the_result(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    choose(page, "b")
    expect_totals(result, 0, 1)
    for name in ("CSV", "JSON"):
        with result.expect_download() as download:
            result.get_by_role("link", name=name, exact=True).click()
        suggested = download.value.suggested_filename
        assert re.fullmatch(rf"votes-round-\d+\.{name.lower()}", suggested)
        assert "Dogs" in download.value.path().read_text()
