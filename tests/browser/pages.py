"""Actions and expectations on the pages."""

import re

from playwright.sync_api import Page, Route, expect

PHONE = {"width": 390, "height": 844}
WINDOWS = [PHONE, {"width": 1280, "height": 800}, {"width": 1920, "height": 1080}]

RECEIPT = "#receipt"

# What an open vote page polls.
POLL = re.compile(r"/\?round=\d+$")

# Returns the texts that overflow the window, or the button around them. The mark of one of several
# choices is on the border of its button.
OVERFLOW = """() => [...document.querySelectorAll(
        "h1, .name, .mark, [role=status], .figures span, .numbers dd"
    )]
    .filter(element => !element.matches(".unseen")).filter(element => {
        const own = element.getBoundingClientRect()
        const button = element.matches(".choices:has(.c) .mark") ? null : element.closest("button")
        const around = (button ?? document.body).getBoundingClientRect()
        return own.left < around.left || own.right > around.right
            || (button && (own.top < around.top || own.bottom > around.bottom))
            || element.scrollWidth > element.clientWidth + 1 && element.tagName !== "SPAN"
    }).map(element => element.textContent)"""


def choose(page: Page, choice: str) -> None:
    page.locator(f"#choice-{choice}").click()


def hold(page: Page, address: str | re.Pattern[str]) -> list[Route]:
    """Hold the next request to an address: it is in the list once it was sent."""
    held: list[Route] = []
    page.route(address, lambda route: held.append(route), times=1)  # noqa: PLW0108 - it must
    return held


def hide(page: Page, *, hidden: bool) -> None:
    """Make the page take its tab for hidden or shown."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true})
            document.dispatchEvent(new Event("visibilitychange"))
        }""",
        hidden,
    )


def expect_choice(page: Page, choice: str) -> None:
    """Expect that only this button is marked, by attribute and by text."""
    pressed = page.locator('.choice[aria-pressed="true"]')
    expect(pressed).to_have_count(len(choice))
    expect(page.locator(".mark", has_text="✓ Your choice")).to_have_count(len(choice))
    if choice:
        expect(pressed).to_have_id(f"choice-{choice}")
        expect(pressed.locator(".mark")).to_have_text("✓ Your choice")


def expect_receipt(page: Page, *words: str) -> None:
    """Expect that the status below the buttons has these words, in this order."""
    text = re.compile(".*".join(map(re.escape, words)))
    expect(page.locator(RECEIPT)).to_have_text(text)


def expect_totals(page: Page, a: int, b: int) -> None:
    for key, votes in (("a", a), ("b", b)):
        plural = "" if votes == 1 else "s"
        expect(page.locator(f".row.{key} .votes")).to_have_text(f"{votes} vote{plural}")


def expect_fit(page: Page) -> None:
    """Expect that no text overflows and no window of WINDOWS scrolls sideways."""
    for window in WINDOWS:
        page.set_viewport_size(window)
        root = page.locator("html")
        assert root.evaluate("root => root.scrollWidth <= root.clientWidth"), window
        assert (window, page.evaluate(OVERFLOW)) == (window, [])
