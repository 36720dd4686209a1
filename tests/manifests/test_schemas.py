"""What every folder renders to is what each supported Kubernetes takes, field by field."""

import re
from pathlib import Path

import kubernetes_validate
import pytest

from .rendering import ALL, COMPONENTS, DEPLOY, OVERLAYS, Resource, render, title

OLDEST = (1, 34)
VERSIONS = [
    match.group()
    for path in (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").iterdir()
    if (match := re.match(r"\d+\.\d+", path.name.removeprefix("v")))
    and path.name.endswith("-strict")
    and tuple(map(int, match.group().split("."))) >= OLDEST
]

# Defined by what production/README.md says to install first; Kubernetes has no schema of these.
CUSTOM = {"Cluster", "ScheduledBackup", "ScaledObject", "TriggerAuthentication"} | {
    "ServiceMonitor",
    "PrometheusRule",
}


def validate(resource: Resource, version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_oldest_and_newer_versions_are_looked_at():
    assert "1.34" in VERSIONS
    assert len(VERSIONS) > 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ALL)
def test_every_resource_has_the_schema_of_its_kind(folder: str, version: str):
    for resource in render(folder):
        if resource["kind"] not in CUSTOM:
            validate(resource, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_that_is_misspelt_is_found(version: str):
    [vote] = [each for each in render("base") if title(each) == "Deployment vote"]
    vote["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(vote, version)


@pytest.mark.parametrize("folder", ALL)
def test_no_resource_is_there_twice(folder: str):
    names = [(title(each), each["metadata"].get("namespace")) for each in render(folder)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_of_use_to_an_overlay(component: str):
    used = [path.read_text() for path in DEPLOY.glob("overlays/**/kustomization.yaml")]
    assert any(component in text for text in used)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_of_the_app_is_in_its_namespace(overlay: str):
    elsewhere = {
        title(each)
        for each in render(overlay)
        if each["metadata"].get("namespace", "voting") != "voting"
    }
    assert all("traefik" in name for name in elsewhere)
