"""The end-to-end tests apply the overlay `kind` with another tag and port."""

import json
import os
from pathlib import Path

import pytest
import yaml

from e2e import overlay

from .rendering import DEPLOY, Resource, kustomize, one, render

ROOT = DEPLOY.parent


@pytest.fixture
def rendered(tmp_path: Path) -> list[Resource]:
    app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
    text = overlay.kustomization(app, os.path.relpath(ROOT, tmp_path), "20261125-1", 43210)
    (tmp_path / "kustomization.yaml").write_text(text)
    return kustomize(tmp_path)


def config_name(resources: list[Resource]) -> str:
    return one(resources, "ConfigMap", "voting")["metadata"]["name"]


def test_the_overlay_differs_only_in_tag_and_port(rendered: list[Resource]):
    base = render("overlays/kind")
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


def test_the_cluster_differs_from_the_readme_only_in_name_and_port():
    text = (ROOT / overlay.OVERLAY / "cluster.yaml").read_text()
    changed = yaml.safe_load(overlay.cluster(text, "pytest-voting", 43210))
    expected = text.replace("name: voting", "name: pytest-voting").replace("8080", "43210")
    assert changed == yaml.safe_load(expected)
