"""The dashboard and the alerts query metrics that the roles export; the docs explain each alert."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import prometheus_client
import pytest
import yaml

from voting.telemetry import metrics

from .alert_cases import ALERT_CASES, NORMAL
from .rendering import DEPLOY, Resource, of, one, render

NAME = re.compile(r"\b(?:voting|process|kubelet_volume)_[a-z_]+\b")
# A metric with its selector, a label in it, and the labels after `by`.
SELECTOR = re.compile(r"([a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"by \(([^)]*)\)")

# Kubernetes' own, https://kubernetes.io/docs/reference/instrumentation/metrics/
KUBERNETES_METRICS = {
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "up",
}
# Labels that scraping adds with `components/monitoring/metrics.yaml`, and those of Kubernetes.
ADDED_LABELS = {"namespace", "pod", "job", "component", "persistentvolumeclaim", "le"}

FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'
PAGE = (DEPLOY.parent / "docs/how-to/alerts.md").read_text()
PROMTOOL = shutil.which("promtool")


def dashboard() -> list[Resource]:
    found = one(render("components/monitoring"), "ConfigMap", "dashboard")
    return json.loads(found["data"]["voting.json"])["panels"]


def rules() -> Resource:
    [found] = of(render("components/monitoring"), "PrometheusRule")
    return found["spec"]


def alerts() -> list[Resource]:
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def targets() -> list[Resource]:
    return [target for panel in dashboard() for target in panel.get("targets", [])]


def expressions() -> list[str]:
    return [each["expr"] for each in [*targets(), *alerts()]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of each metric that the roles export."""
    registries = (prometheus_client.REGISTRY, *metrics.OF_ROLE.values())
    metrics.BUILD.labels("1", "c0ffee", "vote").set(1)
    metrics.READY.labels("vote").set(1)
    metrics.PHASE.labels("open").set(1)
    found = {name: set() for name in KUBERNETES_METRICS}
    for registry in registries:
        for family in registry.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_queried_metric_exists(expression: str, labels: dict[str, set[str]]):
    queried = set(NAME.findall(expression))
    assert queried <= set(labels)
    assert queried or expression.startswith("absent(up")


@pytest.mark.parametrize("expression", expressions())
def test_every_queried_label_exists(expression: str, labels: dict[str, set[str]]):
    for name, selector in SELECTOR.findall(expression):
        assert set(LABEL.findall(re.sub(r'"[^"]*"', "", selector))) <= labels[name] | ADDED_LABELS
    there = ADDED_LABELS.union(*(labels.get(name, set()) for name in NAME.findall(expression)))
    for group in GROUPED.findall(expression):
        assert set(group.replace(" ", "").split(",")) <= there


@pytest.mark.parametrize("target", targets(), ids=lambda target: target["expr"])
def test_a_panel_selects_one_namespace_and_its_legend_has_the_grouped_labels(target: Resource):
    assert target["expr"].count('namespace="$namespace"') == len(NAME.findall(target["expr"]))
    legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    grouped = {part for group in GROUPED.findall(target["expr"]) for part in group.split(", ")}
    assert legend >= grouped - {"le"}


def test_panels_have_unique_ids_and_do_not_overlap():
    panels = dashboard()
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(letters) == len(set(letters))
    covered = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in panels)
        for x, y in product(range(place["w"]), range(place["h"]))
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24  # columns


def paragraphs() -> dict[str, str]:
    """Return the page's paragraph of each alert."""
    heading, *parts = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)
    assert heading
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_each_alert_has_a_paragraph():
    assert sorted(paragraphs()) == sorted(alert["alert"] for alert in alerts())


def test_the_page_on_metrics_has_each_alert_with_its_severity_and_its_wait():
    page = (DEPLOY.parent / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(\S+\) \| (\w+) \| ?(\w*) ?\| .+ \|$", page, re.MULTILINE)
    assert rows == [
        (alert["alert"], alert["labels"]["severity"], alert.get("for", "")) for alert in alerts()
    ]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_has_a_severity_an_effect_on_voters_and_a_runbook(alert: Resource):
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert notes["runbook"] == f"docs/how-to/alerts.md#{alert['alert'].lower()}"
    assert re.search("voters|viewers|nobody", notes["description"].lower())


def test_references_within_the_page_have_targets():
    headings = re.findall(r"^#+ (.*)", PAGE, re.MULTILINE)
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= {each.lower() for each in headings}


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    """A file for Prometheus with the alerts and each expression of the dashboard."""
    filled = (
        target["expr"].replace("$namespace", "voting").replace("$__rate_interval", "1m")
        for target in targets()
    )
    records = [{"record": f"queried:{n}", "expr": expr} for n, expr in enumerate(filled)]
    groups = [*rules()["groups"], {"name": "dashboard", "rules": records}]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.dump({"groups": groups}))
    return path


def promtool(*arguments: str) -> None:
    command = [PROMTOOL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def cases() -> Iterator[Resource]:
    """Yield each case as a test for promtool."""
    for expected, changes in [((), {}), *ALERT_CASES]:
        series = {**NORMAL, **changes}
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)]
        yield {
            "interval": "15s",
            "input_series": [
                {"series": name, "values": values} for name, values in series.items() if values
            ],
            "promql_expr_test": [{"expr": FIRING, "eval_time": "20m", "exp_samples": samples}],
        }


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_every_expression_parses_and_every_alert_fires_when_it_must(rules_file: Path):
    promtool("check", "rules", str(rules_file))
    tests = rules_file.with_name("tests.yaml")
    content = {"rule_files": [rules_file.name], "tests": list(cases())}
    tests.write_text(yaml.dump({**content, "evaluation_interval": "15s"}))
    promtool("test", "rules", str(tests))


def test_each_alert_has_a_case_in_which_it_fires():
    expected = {name for names, _ in ALERT_CASES for name in names}
    assert expected == {alert["alert"] for alert in alerts()}
