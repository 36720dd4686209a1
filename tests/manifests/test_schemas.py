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

# Defined by what production/README.md says to install first. Kubernetes has no schema of these, so
# nothing here finds a field of theirs that is misspelt; `kubectl apply --dry-run=server` does.
CUSTOM = {
    *("Cluster", "ObjectStore", "ScheduledBackup"),
    *("ScaledObject", "TriggerAuthentication"),
    *("ServiceMonitor", "PrometheusRule"),
}
# Of no namespace.
GLOBAL = {"Namespace", "ClusterRole", "ClusterRoleBinding", "IngressClass"}


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
def test_everything_is_in_the_namespace_of_the_app_or_of_the_ingress_controller(overlay: str):
    found = {
        each["metadata"].get("namespace") for each in render(overlay) if each["kind"] not in GLOBAL
    }
    assert found == ({"voting", "traefik"} if "kind" in overlay else {"voting"})


def test_a_restore_makes_the_database_from_its_archive_and_archives_elsewhere():
    production = DEPLOY / "overlays/production"
    patch = (production / "restore.yaml").read_text()
    [cluster] = [each for each in render("overlays/production", patch) if each["kind"] == "Cluster"]
    spec = cluster["spec"]
    [source] = spec["externalClusters"]
    [archive] = spec["plugins"]
    assert spec["bootstrap"].keys() == {"recovery"}
    assert spec["bootstrap"]["recovery"]["source"] == source["name"]
    store = {"barmanObjectName": "postgres"}
    assert source["plugin"]["parameters"] == store | {"serverName": cluster["metadata"]["name"]}
    assert archive["parameters"] == store | {"serverName": "postgres-2"}
    assert spec["managed"]["roles"]
    assert spec["instances"] == 3
