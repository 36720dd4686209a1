"""What the end-to-end tests apply is the overlay `kind`, but for the tag and the port."""

import json
import os
from pathlib import Path

import pytest
import yaml

from e2e import overlay

from .rendering import DEPLOY, Resource, kustomize, render

ROOT = DEPLOY.parent


@pytest.fixture
def rendered(tmp_path: Path) -> list[Resource]:
    app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
    text = overlay.kustomization(app, os.path.relpath(ROOT, tmp_path), "20261125-1", 43210)
    (tmp_path / "kustomization.yaml").write_text(text)
    return kustomize(tmp_path)


def test_it_differs_from_the_overlay_in_tag_and_port_alone(rendered: list[Resource]):
    [config] = [
        each["metadata"]["name"]
        for each in rendered
        if each["kind"] == "ConfigMap" and "VOTE_URL" in each["data"]
    ]
    [old] = [
        each["metadata"]["name"]
        for each in render("overlays/kind")
        if each["kind"] == "ConfigMap" and "VOTE_URL" in each["data"]
    ]
    text = json.dumps(render("overlays/kind"))
    for before, after in (
        ("voting:dev", "voting:20261125-1"),
        ("migrate-dev", "migrate-20261125-1"),
        ("localhost:8080", "localhost:43210"),
        (old, config),
    ):
        assert before in text
        text = text.replace(before, after)
    assert json.loads(text) == rendered


def test_the_cluster_differs_from_what_the_readme_makes_in_name_and_port_alone():
    text = (ROOT / overlay.OVERLAY / "cluster.yaml").read_text()
    changed = yaml.safe_load(overlay.cluster(text, "pytest-voting", 43210))
    expected = text.replace("name: voting", "name: pytest-voting").replace("8080", "43210")
    assert changed == yaml.safe_load(expected)
