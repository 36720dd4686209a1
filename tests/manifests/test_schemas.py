"""Every folder renders to resources that match the schemas of each supported Kubernetes."""

import re
from functools import partial
from pathlib import Path

import kubernetes_validate
import pytest

from . import crds
from .rendering import ALL, COMPONENTS, DEPLOY, OVERLAYS, of, one, render

OLDEST = 34  # of version 1
VERSIONS = [
    f"1.{match[1]}"
    for path in (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").iterdir()
    if (match := re.fullmatch(r"v?1\.(\d+).*-strict", path.name)) and int(match[1]) >= OLDEST
]

GATEWAY_API = {"Gateway", "GatewayClass", "HTTPRoute"}
# Custom resources of the operators in production/README.md and of the Gateway API. This repository
# has no schemas of them; `kubectl apply --dry-run=server` finds their misspelt fields.
CUSTOM = {
    *GATEWAY_API,
    *("Cluster", "ObjectStore", "ScheduledBackup"),
    *("ScaledObject", "TriggerAuthentication"),
    *("ServiceMonitor", "PrometheusRule"),
}
# Resources without a namespace.
GLOBAL = {"Namespace", "ClusterRole", "ClusterRoleBinding", "IngressClass", "GatewayClass"}

validate = partial(kubernetes_validate.validate, strict=True)


def test_the_oldest_and_newer_versions_are_checked():
    assert "1.34" in VERSIONS
    assert len(VERSIONS) > 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ALL)
def test_every_resource_matches_its_schema(folder: str, version: str):
    for resource in render(folder):
        if resource["kind"] not in CUSTOM:
            validate(resource, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_is_found(version: str):
    vote = one(render("base"), "Deployment", "vote")
    vote["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(vote, version)


@pytest.mark.parametrize("overlay", ["overlays/kind-gateway", "overlays/production"])
def test_the_gateway_matches_the_schemas_of_its_crds(gateway_api: Path, overlay: str):
    found = of(render(overlay), *GATEWAY_API)
    assert {"Gateway", "HTTPRoute"} <= {each["kind"] for each in found}
    for resource in found:
        schema = crds.schema(gateway_api, resource)
        crds.validate(resource, schema)
        assert list(crds.missing_defaults(resource, schema)) == []


def test_a_field_that_a_crd_has_not_and_a_missing_default_are_found(gateway_api: Path):
    gateway = one(render("overlays/production"), "Gateway", "voting")
    schema = crds.schema(gateway_api, gateway)
    listener = gateway["spec"]["listeners"][0]
    listener["hostnames"] = listener.pop("hostname")
    with pytest.raises(crds.ValidationError):
        crds.validate(gateway, schema)
    del listener["tls"]["mode"]
    assert list(crds.missing_defaults(gateway, schema)) == ["spec.listeners.0.tls.mode"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_overlay_uses_every_component(component: str):
    used = [path.read_text() for path in DEPLOY.glob("overlays/**/kustomization.yaml")]
    assert any(component in text for text in used)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_the_namespace_of_the_app_or_of_the_ingress_controller(overlay: str):
    local = (each for each in render(overlay) if each["kind"] not in GLOBAL)
    found = {each["metadata"].get("namespace") for each in local}
    assert found == ({"voting", "traefik"} if "kind" in overlay else {"voting"})


def test_a_restore_makes_the_database_from_its_archive_and_archives_elsewhere():
    production = DEPLOY / "overlays/production"
    patch = (production / "restore.yaml").read_text()
    [cluster] = of(render("overlays/production", patch), "Cluster")
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
