"""The families of each role, and the page that explains them."""

import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from voting.settings import Role
from voting.telemetry import metrics

PAGE = (Path(__file__).parent.parent.parent / "docs/reference/metrics.md").read_text()
ROWS = re.findall(r"^\| `(voting_\w+)` \| (\w+) \|(.*)\| (\w+)\*? \| .+ \|$", PAGE, re.MULTILINE)


def names(registry):
    """Return the names of the families as in a query."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        if family.name.startswith("voting_")
    }


def test_the_page_has_each_metric_once_with_its_role():
    there = [(name, "every") for name in names(metrics._EVERY)]
    there += [(name, role) for role in Role for name in names(metrics.OF_ROLE[role])]
    assert sorted((name, role) for name, _, _, role in ROWS) == sorted(there)


def test_the_page_has_the_type_and_the_labels_of_each_metric():
    made = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    there = {}
    for each in made:
        [family] = each.describe()
        suffix = "_total" if family.type == "counter" else ""
        there[family.name + suffix] = (family.type, list(each._labelnames))
    assert {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels, _ in ROWS} == there


@pytest.mark.parametrize("role", Role)
def test_a_role_exposes_its_own_families_and_those_of_every_role_only(role):
    text = metrics.exposition(role).decode()
    exposed = set(re.findall(r"^# TYPE (voting_\w+)", text, re.MULTILINE))
    assert exposed == names(metrics._EVERY) | names(metrics.OF_ROLE[role])


@pytest.mark.parametrize("word", [*metrics.REASONS])
def test_the_page_explains_each_reason_of_a_refusal(word):
    [paragraph] = re.findall(r"\*\*Reasons of a refusal\*\*(.*?)\n\n", PAGE, re.DOTALL)
    assert f"`{word}`" in paragraph


def test_every_reason_is_there_from_the_start_as_0():
    samples = metrics._VOTE.get_sample_value
    found = [samples("voting_ballots_refused_total", {"reason": word}) for word in metrics.REASONS]
    assert None not in found
