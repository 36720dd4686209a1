"""The page that says why the number can be trusted names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest
from faults.faults import FAULTS

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/reliability.md").read_text()
ROWS = [line for line in PAGE.partition("## How")[0].splitlines() if line.startswith("| ")][1:]


def names(path: str) -> set[str]:
    """Find the functions that a file defines."""
    defined = ast.parse((ROOT / path).read_text()).body
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in defined if isinstance(node, functions)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_failure_is_shown_by_tests_and_faults_that_exist(row):
    shown = re.findall(r"`([^`]+)`", row.split("|")[3])
    assert shown
    for each in shown:
        path, _, name = each.rpartition("::")
        assert name in (names(path) if path else {fault.__name__ for fault in FAULTS})


def test_all_faults_that_there_are_happen():
    defined = {name for name in names("tests/faults/faults.py") if not name.startswith("_")}
    assert defined == {fault.__name__ for fault in FAULTS}
