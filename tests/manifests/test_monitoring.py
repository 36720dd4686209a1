"""The dashboard and the alerts ask for metrics that the roles have."""

import json
import re
from importlib import import_module

import prometheus_client
import pytest

from .rendering import DEPLOY, of, render

METRIC = re.compile(r"\b(?:voting|process)_[a-z_]+\b")


def expressions() -> list[str]:
    resources = render("components/monitoring")
    [dashboard] = [
        each for each in of(resources, "ConfigMap") if each["metadata"]["name"] == "dashboard"
    ]
    panels = json.loads(dashboard["data"]["voting.json"])["panels"]
    [rules] = of(resources, "PrometheusRule")
    return [
        *(target["expr"] for panel in panels for target in panel["targets"]),
        *(rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]),
    ]


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    for module in ("ops", "roles.vote", "roles.result", "roles.worker"):
        import_module(f"voting.{module}")
    collected = prometheus_client.REGISTRY.collect()
    return {name for family in collected for name in _names(family)}


def _names(family) -> set[str]:
    # A counter with labels has no sample yet, and its name lacks what a sample's would have.
    suffix = "_total" if family.type == "counter" else ""
    return {f"{family.name}{suffix}", *(sample.name for sample in family.samples)}


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_that_is_asked_for_exists(expression: str, metrics: set[str]):
    asked = set(METRIC.findall(expression))
    assert asked <= metrics
    assert asked or expression.startswith("absent(up")


def test_the_panels_of_the_dashboard_have_ids_of_their_own():
    text = (DEPLOY / "components/monitoring/voting.json").read_text()
    ids = [panel["id"] for panel in json.loads(text)["panels"]]
    assert len(ids) == len(set(ids))
