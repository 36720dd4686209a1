"""What Flux and Argo CD rely on: the API server keeps each field that they apply as it is."""

from typing import Any

import pytest

from e2e.cluster import NAMESPACE, Cluster

pytestmark = pytest.mark.cluster

KINDS = (
    "deployments,statefulsets,jobs,services,ingresses,networkpolicies,configmaps,secrets,"
    "poddisruptionbudgets,serviceaccounts"
)

# As Flux applies, and Argo CD with ServerSideApply: by another manager of fields than kubectl's.
SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=gitops")


def states(cluster: Cluster) -> dict[str, Any]:
    """Return what changes with each object: its generation, or its version if it has none."""
    found = cluster.kind.get(KINDS, f"--namespace={NAMESPACE}")["items"]
    return {
        f"{each['kind']} {metadata['name']}": (
            metadata["uid"],
            metadata.get("generation", metadata["resourceVersion"]),
        )
        for each in found
        if (metadata := each["metadata"])
    }


def test_what_was_applied_does_not_differ_and_another_apply_changes_nothing(cluster: Cluster):
    [container] = cluster.pods("vote")[0]["spec"]["containers"]
    folder = ("--kustomize", str(cluster.kind.render(container["image"].partition(":")[2])))

    def kubectl(command: str) -> None:
        cluster.kind.kubectl(command, *SERVER_SIDE, *folder, timeout=120)

    # Exit code 1 for differences.
    # https://kubernetes.io/docs/reference/kubectl/generated/kubectl_diff/
    kubectl("diff")
    kubectl("apply")
    before = states(cluster)
    kubectl("diff")
    kubectl("apply")
    assert states(cluster) == before
