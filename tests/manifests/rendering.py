"""Renders the folders of `deploy/` as `kubectl apply -k` would."""

import copy
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent.parent.parent / "deploy"

Resource = dict[str, Any]

OVERLAYS = (
    "overlays/kind",
    "overlays/kind-gateway",
    "overlays/kind-replicated",
    "overlays/production",
)
COMPONENTS = tuple(sorted(f"components/{each.name}" for each in (DEPLOY / "components").iterdir()))
ALL = ("base", *COMPONENTS, *OVERLAYS)


def render(folder: str, patch: str | None = None, component: str = "") -> list[Resource]:
    """Render a folder of `deploy/`; a component with the base. Callers may change the result."""
    if folder in COMPONENTS:
        folder, component = "base", folder
    return copy.deepcopy(_render(folder, patch, component))


@functools.cache
def _render(folder: str, patch: str | None, component: str) -> list[Resource]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        here = os.path.relpath(DEPLOY, root)
        kustomization = {"resources": [f"{here}/{folder}"]}
        if component:
            kustomization["components"] = [f"{here}/{component}"]
        if patch:
            kustomization["patches"] = [{"patch": patch}]
        (root / "kustomization.yaml").write_text(yaml.dump(kustomization))
        return kustomize(root)


def kustomize(folder: Path) -> list[Resource]:
    """Render any folder."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # kustomize warns of deprecated fields
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [each for each in resources if each["kind"] in kinds]


def is_named(given: str, name: str) -> bool:
    """Whether `given` is the name, or the name with the hash that kustomize adds."""
    return bool(re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", given))


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    """Find a resource by its name without the hash, or the tag of a Job."""
    found = [
        each
        for each in of(resources, kind)
        if is_named(each["metadata"]["name"], name)
        or (kind == "Job" and each["metadata"]["name"].startswith(f"{name}-"))
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def workloads(resources: list[Resource]) -> list[Resource]:
    """Find the resources with a pod template."""
    return of(resources, "Deployment", "StatefulSet", "Job")


def pod(workload: Resource) -> Resource:
    return workload["spec"]["template"]["spec"]


def labels(workload: Resource) -> dict[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]


def containers(workload: Resource) -> list[Resource]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def every_container(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    for workload in workloads(resources):
        for container in containers(workload):
            yield f"{title(workload)}/{container['name']}", container


def title(resource: Resource) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


def matches(selector: Resource, given: dict[str, str]) -> bool:
    """Whether a selector selects these labels."""
    plain = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    assert all(each["operator"] == "In" for each in expressions), "not implemented"
    return plain.items() <= given.items() and all(
        given.get(each["key"]) in each["values"] for each in expressions
    )
