"""The end-to-end tests apply an overlay for kind with another tag and port."""

import json
import os
from pathlib import Path

import pytest
import yaml

from e2e import overlay

from .rendering import DEPLOY, Resource, kustomize, of, one, render

ROOT = DEPLOY.parent


def config_name(resources: list[Resource]) -> str:
    return one(resources, "ConfigMap", "voting")["metadata"]["name"]


@pytest.mark.parametrize("folder", [overlay.KIND, overlay.REPLICATED, overlay.GATEWAY])
def test_the_overlay_differs_only_in_tag_and_port(tmp_path: Path, folder: str):
    app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
    text = overlay.kustomization(app, os.path.relpath(ROOT / folder, tmp_path), "20261125-1", 43210)
    (tmp_path / "kustomization.yaml").write_text(text)
    rendered = kustomize(tmp_path)
    base = render(folder.removeprefix("deploy/"))
    text = json.dumps(base)
    for before, after in (
        ("voting:dev", "voting:20261125-1"),
        ("migrate-dev", "migrate-20261125-1"),
        ("localhost:8080", "localhost:43210"),
        (config_name(base), config_name(rendered)),
    ):
        assert before in text
        text = text.replace(before, after)
    assert json.loads(text) == rendered


def test_a_crd_is_installed_for_each_kind_that_traefik_may_read():
    kinds = {
        kind
        for role in of(render("overlays/kind-gateway"), "Role", "ClusterRole")
        for rule in role["rules"]
        if rule["apiGroups"] == [overlay.GATEWAY_GROUP]
        for kind in rule["resources"]
        if "/" not in kind
    }
    assert kinds == set(overlay.GATEWAY_KINDS)


def test_the_cluster_differs_from_the_readme_only_in_name_and_port():
    text = (ROOT / overlay.KIND / "cluster.yaml").read_text()
    changed = yaml.safe_load(overlay.cluster(text, "pytest-voting", 43210))
    expected = text.replace("name: voting", "name: pytest-voting").replace("8080", "43210")
    assert changed == yaml.safe_load(expected)
