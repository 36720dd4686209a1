"""The size and the layout of the pages."""

import gzip
import re

import pytest
from playwright.sync_api import Request, expect

from .conftest import LONG, MIXED, TITLE
from .pages import (
    PHONE,
    WINDOWS,
    choose,
    expect_choice,
    expect_fit,
    expect_receipt,
    expect_totals,
)
from .states import CITY, CITY_OF_SIX, FILL

# Returns the name, position and size of each part of a page.
PLACES = """() => [...document.querySelectorAll(
    "h1, .choices, .choice, .notes, .phase, .rows, .counts, .lead, .bar, .turnout, .drawing, "
    + ".span, footer"
)].map(part => {
    const {x, y, width, height} = part.getBoundingClientRect()
    return [(part.getAttribute("class") ?? part.tagName).split(" ")[0], x, y, width, height]
})"""


# Returns the sizes of all letters. Read from ten metres, they need a fortieth of the screen.
SIZES = """() => [...document.querySelectorAll("main *")]
    .filter(each => each.checkVisibility() && !each.closest(".unseen"))
    .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(each => parseFloat(getComputedStyle(each).fontSize))"""


def test_two_large_targets_fill_a_phone(site, visitors):
    page = visitors.open(site.vote, viewport=PHONE, has_touch=True, is_mobile=True)
    for key in "ab":
        button = page.locator(f"#choice-{key}")
        box = button.bounding_box()
        assert box["width"] > 0.9 * PHONE["width"]
        assert box["height"] > 0.28 * PHONE["height"]
        expect(button).to_be_in_viewport(ratio=1)
    expect(page.locator("footer")).to_be_in_viewport(ratio=1)
    page.locator("#choice-a").tap()
    expect_choice(page, "a")


def test_six_targets_of_equal_size_fit_a_phone(site, visitors):
    site.ask(CITY_OF_SIX)
    page = visitors.open(site.vote, viewport=PHONE, has_touch=True, is_mobile=True)
    boxes = [each.bounding_box() for each in page.locator(".choice").all()]
    assert len({(each["width"], each["height"]) for each in boxes}) == 1
    assert boxes[0]["width"] > 0.9 * PHONE["width"]
    assert boxes[0]["height"] >= 48
    for part in (page.locator("#choice-a"), page.locator("#choice-f"), page.locator("footer")):
        expect(part).to_be_in_viewport(ratio=1)
    page.locator("#choice-f").tap()
    expect_choice(page, "f")


def test_long_texts_are_shown_unchanged_and_fit(long_site, visitors):
    page, result = visitors.open(long_site.vote), visitors.open(long_site.result)
    for each in (page, result):
        expect(each).to_have_title(TITLE.strip() + (" · Result" if each is result else ""))
        expect(each.locator("h1")).to_have_text(TITLE.strip())
        for key, name, direction in (("a", LONG, "ltr"), ("b", MIXED, "rtl")):
            expect(each.locator(f".{key} .name")).to_have_text(name)
            expect(each.locator(f".{key} .name")).to_have_css("direction", direction)
        expect(each.locator("main :is(b, i, script)")).to_have_count(0)
        expect_fit(each)
    for choice, name in (("a", LONG), ("b", MIXED)):
        choose(page, choice)
        expect_receipt(page, name, "is counted")
        expect_totals(result, int(choice == "a"), int(choice == "b"))
        expect_fit(page)
        expect_fit(result)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: str(window["width"]))
def test_no_part_of_a_page_moves(site, visitors, window):
    page, result = (visitors.open(each, viewport=window) for each in (site.vote, site.result))
    before = [each.evaluate(PLACES) for each in (page, result)]
    for choice, name, totals in (("a", "Cats", (1, 0)), ("b", "Dogs", (0, 1))):
        choose(page, choice)
        expect_receipt(page, name, "is counted")
        expect_totals(result, *totals)
    expect(result.locator("svg.drawing")).to_be_attached()
    assert [each.evaluate(PLACES) for each in (page, result)] == before


@pytest.mark.parametrize("name", ["vote", "result", "screen", "admin"])
def test_a_page_is_below_50_kb_and_waits_for_one_style_sheet_at_most(site, visitors, name):
    addresses = {"vote": site.vote, "result": site.result, "screen": f"{site.result}/screen"}
    address = {**addresses, "admin": site.up.admin}[name]
    page = visitors.open(address).context.new_page()
    loaded: list[Request] = []
    page.on("requestfinished", lambda request: loaded.append(request))  # noqa: PLW0108 - it must
    page.goto(address, wait_until="networkidle")
    polled = re.compile("/(tally|live|questions)$")
    pages = {each.url: each.response() for each in loaded if not polled.search(each.url)}
    responses = [each for each in pages.values() if each.status == 200]  # one is a redirect
    assert sum(len(gzip.compress(each.body())) for each in responses) < 50_000
    blocking = page.evaluate(
        "performance.getEntriesByType('resource').filter(each => "
        "each.renderBlockingStatus === 'blocking').map(each => each.name)"
    )
    assert len(blocking) <= 1
    assert all(url.endswith(".css") for url in blocking)


def test_a_result_prints_on_one_page_in_light_colours(site, visitors):
    site.up.sql(FILL)
    result = visitors.open(site.result, color_scheme="dark")
    expect(result.locator(".row.a .votes")).to_have_text("14,128 votes")
    result.emulate_media(media="print")
    expect(result.locator("html")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(result.locator("footer")).to_be_hidden()
    assert result.pdf(format="A4").count(b"/Type /Page\n") <= 1


def test_pages_have_a_link_preview(site, visitors):
    for address in (site.vote, site.result):
        page = visitors.open(address)
        for name in ("og:title", "og:description", "og:image", "og:url"):
            expect(page.locator(f"meta[property='{name}']")).to_have_count(1)


def test_a_screen_shows_how_to_vote_while_the_poll_is_open(site, visitors):
    screen = visitors.open(f"{site.result}/screen", viewport={"width": 1920, "height": 1080})
    expect(screen.get_by_role("img", name="QR code of localhost:")).to_be_in_viewport(ratio=1)
    expect(screen.locator(".address")).to_have_text(re.compile(r"^localhost:\d+$"))
    expect(screen.locator("a")).to_have_count(0)
    assert min(screen.evaluate(SIZES)) >= 1920 / 40
    site.up.close_poll()
    expect(screen.locator(".join")).to_be_hidden()
    site.up.open_poll()
    expect(screen.locator(".join")).to_be_visible()


def test_a_screen_has_room_for_twelve_options(site, visitors):
    site.ask(CITY)
    site.up.sql(FILL)
    screen = visitors.open(f"{site.result}/screen")
    expect(screen.locator(".row.leading .name")).to_have_text("Ljubljana")
    for width, height in ((1280, 720), (1920, 1080)):
        screen.set_viewport_size({"width": width, "height": height})
        assert min(screen.evaluate(SIZES)) >= width / 40
        assert screen.evaluate("document.documentElement.scrollHeight") == height
