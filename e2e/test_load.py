"""The component `load-check`: votes from inside the cluster, and a Job that proves their count."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e import overlay
from e2e.cluster import NAMESPACE, Cluster
from e2e.kind import FOLDER
from e2e.running import ROOT

pytestmark = pytest.mark.cluster

COMPONENT = "deploy/components/load-check"
ONLY_CHECK = "--selector=app.kubernetes.io/component=check"


def check_alone(app: str, folder: Path, tag: str) -> str:
    """Return a kustomization with the component, of which `ONLY_CHECK` selects what it adds."""
    return yaml.safe_dump(
        {
            "namespace": NAMESPACE,
            "resources": [os.path.relpath(ROOT / overlay.APP, folder)],
            "components": [os.path.relpath(ROOT / COMPONENT, folder)],
            "images": [{"name": "voting", "newTag": tag}],
            "replacements": yaml.safe_load(app)["replacements"],
        }
    )


@pytest.fixture
def job(cluster: Cluster) -> Iterator[str]:
    [container] = cluster.pods("vote")[0]["spec"]["containers"]
    tag = container["image"].partition(":")[2]
    folder = FOLDER / f"check-{tag}"
    folder.mkdir(exist_ok=True)
    app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
    (folder / "kustomization.yaml").write_text(check_alone(app, folder, tag))
    cluster.kind.kubectl("apply", "--kustomize", str(folder), ONLY_CHECK)
    yield f"job/check-{tag}"
    cluster.kind.kubectl("delete", "--kustomize", str(folder), ONLY_CHECK, timeout=120)


def test_the_job_succeeds_when_each_of_its_votes_is_counted(cluster: Cluster, job: str):
    seconds = cluster.patience
    cluster.kubectl(
        *("wait", "--for=condition=Complete", job, f"--timeout={seconds:.0f}s"),
        timeout=seconds + 10,
    )
    *_, progress, verdict = cluster.kubectl("logs", job).splitlines()
    assert " 2,000 acknowledged, 0 refused, 0 unknown, " in progress
    assert verdict.startswith("exact: a ")
