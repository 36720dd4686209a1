"""The code and the tests that SECURITY.md and the pages on reliability and threats name exist."""

import re

import pytest
from faults import replicated
from faults.faults import FAULTS
from support.docs import ROOT, functions


def rows(page: str) -> list[list[str]]:
    """Find the rows of the page's tables, without their heads. Those of counts come later."""
    text = (ROOT / page).read_text().partition("## How")[0]
    return [line.split(" | ") for line in re.findall(r"^\| (.*) \|$(?!\n\|--)", text, re.MULTILINE)]


def references(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


PROMISES = [
    pytest.param(row, id=row[-3].strip()[:60])
    for page in (
        "docs/explanation/reliability.md",
        "docs/explanation/threat-model.md",
        "SECURITY.md",
    )
    for row in rows(page)
]


@pytest.mark.parametrize("row", PROMISES)
def test_each_promise_is_shown_by_tests_and_faults_that_exist(row):
    shown = references(row[-1])
    assert shown
    for each in shown:
        path, _, name = each.rpartition("::")
        faults = {fault.__name__ for fault in (*FAULTS, *replicated.FAULTS)}
        assert name in (functions(path) if path else faults)


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0]) for row in rows("SECURITY.md")])
def test_each_promise_is_made_by_code_that_exists(row):
    made = references(row[1])
    assert made
    for each in made:
        path, _, name = each.partition("::")
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text())
