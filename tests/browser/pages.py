"""What a person does on the pages and sees there."""

import re

from playwright.sync_api import Page, expect

RECEIPT = "[role=status]"


def choose(page: Page, choice: str) -> None:
    page.locator(f"#choice-{choice}").click()


def expect_choice(page: Page, choice: str) -> None:
    """Expect that this button alone is marked, for eyes, for ears and without colour."""
    for key in "ab":
        button = page.locator(f"#choice-{key}")
        chosen = key == choice
        expect(button).to_have_attribute("aria-pressed", str(chosen).lower())
        expect(button.locator(".mark")).to_have_text("✓ Your choice" if chosen else "")


def expect_receipt(page: Page, *words: str) -> None:
    """Expect that the status under the buttons has these words, in this order."""
    text = re.compile(".*".join(map(re.escape, words)))
    expect(page.locator(RECEIPT)).to_have_text(text)


def expect_totals(page: Page, a: int, b: int) -> None:
    for key, votes in (("a", a), ("b", b)):
        plural = "" if votes == 1 else "s"
        expect(page.locator(f".row.{key} .votes")).to_have_text(f"{votes} vote{plural}")
