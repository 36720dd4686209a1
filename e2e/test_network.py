"""Who may speak with whom: each pair is tried, from inside the pods."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from e2e.cluster import NAMESPACE, Cluster
from e2e.kind import FOLDER

pytestmark = pytest.mark.cluster

# Runs in a pod: tries all addresses at once, and tells which can be reached.
TRY = """
import concurrent.futures, json, socket, sys
def reached(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 4).close()
        return address
    except OSError:
        return None
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps([each for each in pool.map(reached, sys.argv[1:]) if each]))
"""

# The same in a pod that has no Python.
TRY_WITH_BASH = """
for address; do
    (timeout 4 bash -c "exec 3<>/dev/tcp/${address%:*}/${address#*:}" && echo "$address") &
done 2>/dev/null
wait
"""

STRANGERS = {
    # namespace, name: labels
    (NAMESPACE, "stranger"): {},
    # As the Job's pods, which are gone by now.
    (NAMESPACE, "migration"): {
        "app.kubernetes.io/name": "voting",
        "app.kubernetes.io/component": "migrate",
    },
    # A neighbour of the ingress controller, which alone may reach the pages.
    ("traefik", "stranger"): {},
    ("default", "stranger"): {"app.kubernetes.io/name": "traefik"},
}

MAY = {
    "vote": {"redis"},
    "result": {"postgres"},
    "worker": {"redis", "postgres"},
    "redis": set(),
    "postgres": set(),
    "voting/stranger": set(),
    "voting/migration": {"postgres"},
    # Nothing keeps these from the API, which asks them who they are.
    "traefik/stranger": {"api"},
    "default/stranger": {"api"},
}


@pytest.fixture(scope="module")
def strangers(cluster) -> Iterator[None]:
    """Pods that may do little, in the app's namespace and in others."""
    tag = cluster.pods("vote")[0]["spec"]["containers"][0]["image"]
    pods = [pod(namespace, name, labels, tag) for (namespace, name), labels in STRANGERS.items()]
    file = FOLDER / "strangers.yaml"
    file.write_text(yaml.safe_dump_all(pods))
    cluster.kind.kubectl("apply", "--filename", str(file))
    for namespace, name in STRANGERS:
        cluster.kind.kubectl(
            *("wait", f"pod/{name}", f"--namespace={namespace}", "--for=condition=Ready"),
            "--timeout=120s",
            timeout=130,
        )
    yield
    cluster.kind.kubectl("delete", "--filename", str(file), "--grace-period=1", timeout=120)


@pytest.fixture(scope="module")
def addresses(cluster) -> dict[str, str]:
    """Everything that listens: pods by their numbers, so that no Service is in between."""
    found = {
        name: f"{cluster.pods(component)[0]['status']['podIP']}:{port}"
        for name, component, port in (
            ("redis", "redis", 6379),
            ("postgres", "postgres", 5432),
            ("vote", "vote", 8080),
            ("result", "result", 8080),
            ("operations of vote", "vote", 9090),
            ("operations of result", "result", 9090),
            ("operations of worker", "worker", 9090),
        )
    }
    api = cluster.kind.get("service", "kubernetes", "--namespace=default")
    return {**found, "api": f"{api['spec']['clusterIP']}:443"}


@pytest.mark.parametrize("source", MAY)
@pytest.mark.usefixtures("strangers")
def test_each_pair_is_allowed_or_denied(cluster, addresses, source):
    reached = attempt(cluster, source, list(addresses.values()))
    assert {name for name, address in addresses.items() if address in reached} == MAY[source]


def test_names_of_services_lead_there(cluster):
    assert attempt(cluster, "worker", ["redis:6379", "postgres:5432"]) == {
        "redis:6379",
        "postgres:5432",
    }


@pytest.mark.parametrize("page", ["vote", "result"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/version"])
@pytest.mark.parametrize("port", ["", ":9090"])
def test_the_ingress_does_not_lead_to_the_operations_port(cluster, page, path, port):
    with cluster.visitor(page) as visitor:
        answer = visitor.get(path, headers={"Host": f"{page}.localhost{port}"})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "voting_" not in answer.text


def test_no_service_has_the_operations_port(cluster):
    services = cluster.kind.get("services", f"--namespace={NAMESPACE}")["items"]
    ports = {
        service["metadata"]["name"]: [each["targetPort"] for each in service["spec"]["ports"]]
        for service in services
    }
    assert ports == {
        "vote": ["http"],
        "result": ["http"],
        "redis": ["redis"],
        "postgres": ["postgres"],
    }


def attempt(cluster: Cluster, source: str, addresses: list[str]) -> set[str]:
    """Try to connect from a pod, and tell which addresses let it."""
    namespace, _, name = source.rpartition("/")
    container = "stranger" if namespace else name
    name = name if namespace else cluster.pods(name)[0]["metadata"]["name"]
    words = ("exec", name, f"--namespace={namespace or NAMESPACE}", f"--container={container}")
    if source in {"redis", "postgres"}:
        said = cluster.kind.kubectl(*words, "--", "bash", "-c", TRY_WITH_BASH, "-", *addresses)
        return set(said.split())
    return set(json.loads(cluster.kind.kubectl(*words, "--", "python", "-c", TRY, *addresses)))


def pod(namespace: str, name: str, labels: dict[str, str], image: str) -> dict[str, Any]:
    """Describe a pod that does nothing, with the rights that every namespace here allows."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "stranger",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", "import time; time.sleep(86400)"],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
