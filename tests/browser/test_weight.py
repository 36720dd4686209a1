"""How much a page is, and that it stands still."""

import gzip
import re

import pytest
from playwright.sync_api import Request, expect

from .pages import choose, expect_receipt, expect_totals
from .states import FILL
from .test_looks import WINDOWS

# Where the parts of a page are, by their class.
PLACES = """() => [...document.querySelectorAll(
    "h1, .choices, .choice, .notes, .phase, .rows, .counts, .lead, .bar, .turnout, .drawing, "
    + ".span, footer"
)].map(part => {
    const {x, y, width, height} = part.getBoundingClientRect()
    return [(part.getAttribute("class") ?? part.tagName).split(" ")[0], x, y, width, height]
})"""


@pytest.mark.parametrize("name", ["vote", "result", "screen"])
def test_a_first_page_is_light_and_waits_for_one_file_at_most(site, visitors, name, capsys):
    address = {"vote": site.vote, "result": site.result, "screen": f"{site.result}/screen"}[name]
    page = visitors.open(address).context.new_page()
    loaded: list[Request] = []
    page.on("requestfinished", lambda request: loaded.append(request))  # noqa: PLW0108 - it must
    page.goto(address, wait_until="networkidle")
    answers = {each.url: each.response() for each in loaded if "/tally" not in each.url}
    sizes = {url: len(gzip.compress(answer.body())) for url, answer in answers.items()}
    blocking = page.evaluate(
        "performance.getEntriesByType('resource').filter(each => "
        "each.renderBlockingStatus === 'blocking').map(each => each.name)"
    )
    with capsys.disabled():
        print(f"\n{name}: {sum(sizes.values())} bytes compressed in {len(sizes)} requests")  # noqa: T201 - asked for
    assert sum(sizes.values()) < 50_000
    assert len(blocking) <= 1
    assert all(url.endswith(".css") for url in blocking)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: str(window["width"]))
def test_nothing_moves_by_itself(site, visitors, window):
    page, result = (visitors.open(each, viewport=window) for each in (site.vote, site.result))
    before = [each.evaluate(PLACES) for each in (page, result)]
    for choice, name, totals in (("a", "Cats", (1, 0)), ("b", "Dogs", (0, 1))):
        choose(page, choice)
        expect_receipt(page, name, "is counted")
        expect_totals(result, *totals)
    expect(result.locator("svg.drawing")).to_be_attached()
    assert [each.evaluate(PLACES) for each in (page, result)] == before


def test_a_result_prints_on_one_page_in_light_colours(site, visitors):
    site.up.sql(FILL)
    result = visitors.open(site.result, color_scheme="dark")
    expect(result.locator(".row.a .votes")).to_have_text("14,128 votes")
    result.emulate_media(media="print")
    expect(result.locator("html")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(result.locator("footer")).to_be_hidden()
    assert result.pdf(format="A4").count(b"/Type /Page\n") <= 1


def test_other_sites_can_show_what_a_link_leads_to(site, visitors):
    for address in (site.vote, site.result):
        page = visitors.open(address)
        for name in ("og:title", "og:description", "og:image", "og:url"):
            expect(page.locator(f"meta[property='{name}']")).to_have_count(1)


def test_a_screen_asks_to_vote_as_long_as_that_helps(site, visitors):
    screen = visitors.open(f"{site.result}/screen", viewport={"width": 1920, "height": 1080})
    expect(screen.get_by_role("img", name="QR code of localhost:")).to_be_in_viewport(ratio=1)
    expect(screen.locator(".address")).to_have_text(re.compile(r"^localhost:\d+$"))
    expect(screen.locator("a")).to_have_count(0)
    # Read from ten metres, letters need a fortieth of the screen's width.
    sizes = screen.evaluate("""() => [...document.querySelectorAll("main *")]
        .filter(each => each.checkVisibility() && !each.closest(".unseen"))
        .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
        .map(each => parseFloat(getComputedStyle(each).fontSize))""")
    assert min(sizes) >= 1920 / 40
    site.up.close_poll()
    expect(screen.locator(".join")).to_be_hidden()
    site.up.open_poll()
    expect(screen.locator(".join")).to_be_visible()
