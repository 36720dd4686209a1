"""What the pages look like, as far as a program can tell."""

import pytest
from playwright.sync_api import Page, expect

from .conftest import LONG, MIXED, PHONE, TITLE
from .pages import choose, expect_choice, expect_receipt, expect_totals

WINDOWS = [PHONE, {"width": 1280, "height": 800}, {"width": 1920, "height": 1080}]
# How far the text's colour is from what is behind it: WCAG 2, relative luminance.
CONTRAST = """element => {
    const luminance = color => {
        const most = color.startsWith("color(srgb") ? 1 : 255
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(each => each / most)
            .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    let behind = element
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
        behind = behind.parentElement
    const [dark, light] = [
        luminance(getComputedStyle(element).color),
        luminance(getComputedStyle(behind).backgroundColor),
    ].sort((one, other) => one - other)
    return (light + 0.05) / (dark + 0.05)
}"""

# Texts that stick out of the window, or of the button that they are in.
OUTSIDE = """() => [...document.querySelectorAll("h1, .name, .mark, [role=status], .counts span")]
    .filter(element => {
        const own = element.getBoundingClientRect()
        const around = (element.closest("button") ?? document.body).getBoundingClientRect()
        return own.left < around.left || own.right > around.right
            || (element.closest("button") && (own.top < around.top || own.bottom > around.bottom))
            || element.scrollWidth > element.clientWidth + 1 && element.tagName !== "SPAN"
    }).map(element => element.textContent)"""


def expect_fit(page: Page) -> None:
    """Expect that nothing sticks out, and that no window has to be moved sideways."""
    for window in WINDOWS:
        page.set_viewport_size(window)
        root = page.locator("html")
        assert root.evaluate("root => root.scrollWidth <= root.clientWidth"), window
        assert page.evaluate(OUTSIDE) == [], window


def test_a_phone_is_filled_by_two_large_targets(site, visitors):
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


def test_tedious_texts_are_shown_as_they_are_and_fit(tedious_site, visitors):
    page, result = visitors.open(tedious_site.vote), visitors.open(tedious_site.result)
    for each in (page, result):
        expect(each).to_have_title(TITLE.strip() + (" · Result" if each is result else ""))
        expect(each.locator("h1")).to_have_text(TITLE.strip())
        expect(each.locator(".a .name")).to_have_text(LONG)
        expect(each.locator(".b .name")).to_have_text(MIXED)
        expect(each.locator(".a .name")).to_have_css("direction", "ltr")
        expect(each.locator(".b .name")).to_have_css("direction", "rtl")
        expect(each.locator("main :is(b, i, script)")).to_have_count(0)
        expect_fit(each)
    for choice, name in (("a", LONG), ("b", MIXED)):
        choose(page, choice)
        expect_receipt(page, name, "is counted")
        expect_totals(result, int(choice == "a"), int(choice == "b"))
        expect_fit(page)
        expect_fit(result)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_stand_out_from_what_is_behind_them(site, visitors, scheme):
    visitors.expect_status(400)
    still = {"color_scheme": scheme, "reduced_motion": "reduce"}  # no colour on its way to another
    page, result = (visitors.open(each, **still) for each in (site.vote, site.result))
    choose(page, "b")
    expect_choice(page, "b")
    expect_totals(result, 0, 1)
    shown = [*page.locator("h1, .name, .mark, [role=status], a").all()]
    shown += result.locator("h1, .name, .share, .votes, .turnout, a").all()
    ratios = {each.inner_text(): each.evaluate(CONTRAST) for each in shown}
    page.context.clear_cookies()
    choose(page, "a")
    ratios["alert"] = page.get_by_role("alert").locator("p").evaluate(CONTRAST)
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
