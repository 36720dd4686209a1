"""Leading a vote from the admin page."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from support.wait import wait_for

from .conftest import Site, running
from .pages import PHONE, choose, expect_receipt, hide

TEA = ("And to drink?", "Tea", "Coffee", "Water")
LUNCH = ("Where for lunch?", "Here", "There")
GOOD = ("Was it good?", "Yes", "No")

KEY_NAMES = {"Esc": "escape"}


@pytest.fixture(scope="module")
def led_site() -> Iterator[Site]:
    with running(SHOW_RESULTS="when_revealed") as site:
        yield site


@pytest.fixture
def led(led_site) -> Site:
    """The app with an open poll, whose totals are hidden until they are revealed."""
    led_site.up.reset()
    led_site.up.sql("TRUNCATE questions")
    led_site.up.sql("UPDATE rounds SET revealed = false")
    return led_site


def open_form(page: Page) -> None:
    """Open the form for a question: it is open already if no other is prepared."""
    if not page.locator("#title").is_visible():
        page.locator("#write summary").click()


def write(page: Page, title: str, *names: str) -> None:
    open_form(page)
    page.get_by_label("Question", exact=True).fill(title)
    page.get_by_label("Options, one a line").fill("\n".join(names))
    page.get_by_role("button", name="Add it").click()
    expect(page.locator("#questions li").last).to_contain_text(title)


def press(page: Page, do: str) -> None:
    page.locator(f"#do-{do}").click()


def confirm(page: Page, do: str, *words: str) -> None:
    """Press a button, read what it asks, and confirm it."""
    press(page, do)
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_be_focused()
    for each in words:
        expect(dialog).to_contain_text(each)
    dialog.get_by_role("button").click()
    expect(dialog).to_have_count(0)


def expect_phase(page: Page, text: str) -> None:
    expect(page.locator("#live .phase")).to_contain_text(text)


def closes_at(site: Site) -> datetime | None:
    found = httpx.get(f"{site.result}/api/tally").json()["closes_at"]
    return found and datetime.fromisoformat(found)


def test_an_evening(led, visitors):
    visitors.expect_status(409)
    visitors.expect_status(503)  # of votes while the queue is away
    admin, second = (visitors.open(led.up.admin) for _ in range(2))
    voter, result = visitors.open(led.vote), visitors.open(led.result)

    # Three questions, prepared beforehand; then the first is asked.
    for question in (TEA, LUNCH, GOOD):
        write(admin, *question)
    expect(second.locator("#questions li")).to_have_count(3)
    confirm(admin, "next", "And to drink?", "It is open: it is closed now")
    for page in (admin, second, voter, result):
        expect(page.locator("h1")).to_have_text(TEA[0])
    expect(admin.locator("#questions li")).to_have_count(2)

    # Results are hidden, here too until a click.
    choose(voter, "c")
    expect_receipt(voter, "Water", "is counted")
    numbers = admin.locator(".numbers dd")
    expect(numbers.first).to_have_text("1")
    expect(admin.locator("#live .totals")).to_have_count(0)
    expect(result.locator(".share")).to_have_count(0)
    admin.locator("#live").get_by_role("link", name="Show them here").click()
    expect(admin.locator("#live .totals .c .share")).to_contain_text("100.0")
    choose(voter, "b")
    expect(admin.locator("#live .totals .b .share")).to_contain_text("100.0")  # without a reload

    # A countdown, which is stopped.
    press(admin, "close-1")
    expect(voter.locator(".closes")).to_contain_text(re.compile("in 5?[0-9] s|in 1 min"))
    expect(admin.locator(".closes")).to_be_visible()
    press(admin, "keep")
    expect(voter.locator(".closes")).to_have_count(0)

    # A page that was not looked at for a while says what has happened meanwhile.
    hide(second, hidden=True)
    press(admin, "close")
    expect_phase(admin, "Final result")
    press(second, "close-10")
    expect(second.get_by_role("alert")).to_contain_text(
        "The result is final now. Nothing was changed."
    )
    expect_phase(second, "Final result")
    assert closes_at(led) is None

    # A mistake, undone.
    confirm(second, "reopen", "revokes its final result")
    expect_phase(second, "Open")
    expect_phase(admin, "Open")

    _survive_a_killed_queue(led, admin, voter)
    _end(admin, voter, result)


def _survive_a_killed_queue(led: Site, admin: Page, voter: Page) -> None:
    [valkey] = led.up.children("valkey-server")
    valkey.suspend()  # first: it would be back before the page polls
    expect(admin.locator(".problem")).to_contain_text("This page can't reach the queue")
    valkey.kill()
    expect(admin.locator(".problem")).to_have_count(0)
    choose(voter, "a")
    expect_receipt(voter, "Tea", "is counted")


def _end(admin: Page, voter: Page, result: Page) -> None:
    """Reveal the result, ask the next question and audit."""
    press(admin, "close")
    expect_phase(admin, "Final result")
    expect(result.locator(".share")).to_have_count(0)
    confirm(admin, "reveal", "Show the totals", "It can't be undone.")
    expect(result.locator(".row.a .share")).to_contain_text("100.0")
    confirm(admin, "next", "Where for lunch?")
    expect(voter.locator("h1")).to_have_text(LUNCH[0])
    expect(result.locator(".share")).to_have_count(0)
    expect(admin.locator("#questions li")).to_have_count(1)

    admin.locator("#audit button").click()
    expect(admin.locator("#audited")).to_contain_text("Queue, votes and totals agree: 0 votes")


def test_what_is_typed_stays_while_the_page_is_live(led, visitors):
    page = visitors.open(led.up.admin)
    page.locator("#time").fill("20:15")
    open_form(page)
    page.locator("#title").fill("Half a ques")
    led.up.vote("a")
    expect(page.locator(".numbers dd").first).to_have_text("1")
    expect(page.locator("#time")).to_have_value("20:15")
    expect(page.locator("#title")).to_have_value("Half a ques")


def test_a_time_is_that_of_the_browsers_zone(led, visitors):
    zone = "America/St_Johns"
    page = visitors.open(led.up.admin, timezone_id=zone)
    expect(page.locator("#zone")).to_contain_text("your time")
    at = (datetime.now(ZoneInfo(zone)) + timedelta(hours=2)).replace(second=0, microsecond=0)
    page.locator("#time").fill(f"{at:%H:%M}")
    press(page, "close-at")
    expect(page.locator(".closes")).to_be_visible()
    wait_for("the time", lambda: closes_at(led) == at.astimezone(UTC))


def test_a_form_is_sent_once(led, visitors):
    page = visitors.open(led.up.admin)
    page.evaluate("""() => {
        const [button] = document.querySelectorAll("#do-close-5")
        button.click()
        button.click()
    }""")
    expect(page.locator(".closes")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_is_enough(led, visitors):
    page = visitors.open(led.up.admin)
    keys = page.keyboard
    page.locator("#write").evaluate("each => each.open = false")
    keys.press("w")
    expect(page.locator("#title")).to_be_focused()
    keys.type(TEA[0])  # letters of it are keys elsewhere
    keys.press("Tab")
    keys.type("Tea\nCoffee")
    keys.press("Tab")
    keys.press("Enter")
    expect(page.locator("#questions li")).to_contain_text(TEA[0])
    keys.press("Escape")
    page.locator("body").focus()
    keys.press("5")
    expect(page.locator(".closes")).to_be_visible()
    keys.press("k")
    expect(page.locator(".closes")).to_have_count(0)
    keys.press("m")
    expect(page.locator("#time")).to_be_focused()
    keys.press("Escape")
    keys.press("t")
    expect(page.locator("#live .totals")).to_be_visible()
    keys.press("n")
    expect(page.get_by_role("alertdialog")).to_be_focused()
    keys.press("c")  # not while something is to be confirmed
    keys.press("Escape")
    expect(page.get_by_role("alertdialog")).to_have_count(0)
    expect_phase(page, "Open")
    keys.press("n")
    expect(page.get_by_role("alertdialog")).to_be_focused()
    keys.press("y")
    expect(page.locator("#questions li")).to_have_count(0)
    expect(page.locator("h1")).to_have_text(TEA[0])
    expect_phase(page, "Open")
    keys.press("c")
    expect_phase(page, "Final result")
    keys.press("r")
    expect(page.get_by_role("alertdialog")).to_be_focused()
    keys.press("y")
    expect(page.locator("#do-reveal")).to_have_count(0)
    keys.press("q")
    expect(page.get_by_role("img", name="QR code of localhost:")).to_be_visible()
    keys.press("a")
    expect(page.locator("#audited")).to_contain_text("totals agree")


def key_of(part: Locator) -> str:
    """Return the key that a part shows, which has to be the one that presses it."""
    shown = part.locator("kbd").inner_text()
    assert part.get_attribute("data-key") == KEY_NAMES.get(shown, shown.lower())
    return shown


# Enter sends what is typed. Of what is listed there may be any number: Tab leads to it.
WITHOUT_KEY = "#at *, #write form *, #questions *, #rounds *"


def test_every_button_shows_its_key(led, visitors):
    led.up.sql("INSERT INTO questions (position, title, names) VALUES (1, 'Next?', '{Yes,No}')")
    page = visitors.open(led.up.admin)
    parts = page.locator(f"main :is(button, a, summary):not({WITHOUT_KEY})")
    found = set(map(key_of, parts.all()))
    press(page, "next")
    expect(page.get_by_role("alertdialog")).to_be_focused()
    found.update(map(key_of, parts.all()))
    assert found >= {"C", "1", "5", "0", "N", "R", "T", "W", "Q", "A", "Y", "Esc"}
    expect(page.locator("label[for=time] kbd")).to_have_text("M")
    expect(page.locator("#time")).to_have_attribute("data-key", "m")


def test_enter_sends_a_time_to_close(led, visitors):
    page = visitors.open(led.up.admin)
    page.keyboard.press("m")
    page.keyboard.type("1230PM")
    page.keyboard.press("Enter")
    expect(page.locator(".closes")).to_be_visible()


def test_targets_are_large_on_a_phone(led, visitors):
    led.up.sql("INSERT INTO questions (position, title, names) VALUES (1, 'Next?', '{Yes,No}')")
    page = visitors.open(led.up.admin, viewport=PHONE, has_touch=True, is_mobile=True)
    expect(page.locator("#questions li")).to_have_count(1)
    parts = page.locator("main :is(button, a, summary, input:not([type=hidden]), textarea)")
    for part in parts.all():
        box = part.bounding_box()
        assert box["height"] >= 44, part.evaluate("each => each.outerHTML")
        assert box["width"] >= 44
    expect(page.locator("kbd").first).to_be_hidden()


def look_for(page: Page, selector: str, number: int = 1) -> None:
    """Look again until the page, which does not change by itself, has so many of that."""

    def has() -> bool:
        page.get_by_role("link", name="Look again").click()
        return page.locator(selector).count() == number

    wait_for(selector, has)


def test_the_main_path_works_without_javascript(led, visitors):
    page = visitors.open(led.up.admin, javascript=False)
    expect(page.locator("#zone")).to_have_text("UTC")
    write(page, *TEA)
    press(page, "close-5")
    look_for(page, ".closes")
    press(page, "keep")
    look_for(page, ".closes", 0)
    page.locator("#live").get_by_role("link", name="Show them here").click()
    expect(page.locator("#live .totals")).to_be_visible()
    confirm(page, "next", "And to drink?")
    look_for(page, "#questions li", 0)
    look_for(page, "#live.open")
    press(page, "close")
    look_for(page, "#live.final")
    confirm(page, "reveal")
    look_for(page, "#do-reveal", 0)
    confirm(page, "again", "Ask the same in the next round now?")
    look_for(page, "#live.open")
