"""Who may speak with whom: each pair is tried, from inside the pods."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from support.wait import wait_for

from e2e.cluster import NAMESPACE, Cluster
from e2e.kind import FOLDER

pytestmark = pytest.mark.cluster

# Runs in a pod: tries all addresses at once, and tells which can be reached.
TRY = """
import concurrent.futures, socket, sys
def reached(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 4).close()
    except OSError:
        return ""
    return address
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(*pool.map(reached, sys.argv[1:]))
"""

# The same in a pod that has no Python.
TRY_WITH_BASH = """
for address; do
    (timeout 4 bash -c "exec 3<>/dev/tcp/${address%:*}/${address#*:}" && echo "$address") &
done 2>/dev/null
wait
"""

# By namespace and name, with labels.
STRANGERS = {
    "voting/stranger": {},
    # As the Job's pods, which are gone by now.
    "voting/migration": {
        "app.kubernetes.io/name": "voting",
        "app.kubernetes.io/component": "migrate",
    },
    # A neighbour of the ingress controller, which alone may reach the pages.
    "traefik/stranger": {},
    "default/stranger": {"app.kubernetes.io/name": "traefik"},
}

# Not the API: what the node of a pod has is always allowed to it, and here that is the one node.
# https://kubernetes.io/docs/concepts/services-networking/network-policies/
MAY = {
    "vote": {"dns", "redis"},
    "result": {"dns", "postgres"},
    "worker": {"dns", "redis", "postgres"},
    "redis": {"dns"},
    "postgres": {"dns"},
    "voting/stranger": {"dns"},
    "voting/migration": {"dns", "postgres"},
    # Nothing keeps these from what is outside of the app's namespace.
    "traefik/stranger": {"dns", "default/stranger"},
    "default/stranger": {"dns"},
}


@pytest.fixture(scope="module")
def strangers(cluster) -> Iterator[None]:
    """Pods that may do little, in the app's namespace and in others."""
    image = cluster.pods("vote")[0]["spec"]["containers"][0]["image"]
    file = FOLDER / "strangers.yaml"
    file.write_text(
        yaml.safe_dump_all(pod(name, labels, image) for name, labels in STRANGERS.items())
    )
    cluster.kind.kubectl("apply", "--filename", str(file))
    for each in STRANGERS:
        namespace, _, name = each.partition("/")
        cluster.kind.kubectl(
            *("wait", f"pod/{name}", f"--namespace={namespace}", "--for=condition=Ready"),
            "--timeout=120s",
            timeout=130,
        )
    yield
    cluster.kind.kubectl("delete", "--filename", str(file), timeout=120)


@pytest.fixture(scope="module")
def listeners(cluster, strangers) -> dict[str, str]:  # noqa: ARG001 - two of them are
    """Everything that listens: pods by their numbers, so that no Service is in between.

    Where there are two of a kind, the other one than speaks.
    """
    dns = cluster.kind.get("pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")
    return {
        "dns": f"{address(dns['items'][0])}:53",
        "redis": f"{address(cluster.pods('redis')[-1])}:6379",
        "postgres": f"{address(cluster.pods('postgres')[-1])}:5432",
        "vote": f"{address(cluster.pods('vote')[-1])}:8080",
        "result": f"{address(cluster.pods('result')[-1])}:8080",
        "operations of vote": f"{address(cluster.pods('vote')[-1])}:9090",
        "operations of result": f"{address(cluster.pods('result')[-1])}:9090",
        "operations of worker": f"{address(cluster.pods('worker')[-1])}:9090",
        "voting/stranger": f"{address(speaker(cluster, 'voting/stranger'))}:8000",
        "default/stranger": f"{address(speaker(cluster, 'default/stranger'))}:8000",
    }


@pytest.mark.parametrize("source", MAY)
def test_each_pair_is_allowed_or_denied(cluster, listeners, source):
    pod = speaker(cluster, source)
    # With itself, a pod may always speak.
    others = {name: to for name, to in listeners.items() if not to.startswith(f"{address(pod)}:")}
    reached: set[str] = set()

    def all_that_may_be() -> bool:
        # What is denied is tried as often, and stays so.
        found = attempt(cluster, pod, list(others.values()))
        reached.update(name for name, to in others.items() if to in found)
        return reached >= MAY[source]

    wait_for(f"what {source} may reach", all_that_may_be)
    assert reached == MAY[source]


def test_names_of_services_lead_there(cluster):
    services = ["redis:6379", "postgres:5432"]
    worker = speaker(cluster, "worker")
    wait_for("both services", lambda: attempt(cluster, worker, services) == set(services))


@pytest.mark.parametrize("page", ["vote", "result"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/version"])
@pytest.mark.parametrize("port", ["", ":9090"])
def test_the_ingress_does_not_lead_to_the_operations_port(cluster, page, path, port):
    with cluster.visitor(page) as visitor:
        answer = visitor.get(path, headers={"Host": f"{page}.localhost{port}"})
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "Content-Security-Policy" in answer.headers  # it is the page that has no such path


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


def speaker(cluster: Cluster, name: str) -> Any:
    """Find the pod that speaks: of a part of the app, or a stranger."""
    namespace, _, stranger = name.rpartition("/")
    if not namespace:
        return cluster.pods(name)[0]
    return cluster.kind.get("pod", stranger, f"--namespace={namespace}")


def address(pod: Any) -> str:
    return str(pod["status"]["podIP"])


def attempt(cluster: Cluster, pod: Any, addresses: list[str]) -> set[str]:
    """Try to connect from a pod, and tell which addresses let it."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    container = pod["spec"]["containers"][0]["name"]
    command = (
        ("bash", "-c", TRY_WITH_BASH, "-")
        if container in {"redis", "postgres"}
        else ("python", "-c", TRY)
    )
    words = ("exec", name, f"--namespace={namespace}", f"--container={container}", "--")
    return set(cluster.kind.kubectl(*words, *command, *addresses).split())


def pod(stranger: str, labels: dict[str, str], image: str) -> dict[str, Any]:
    """Describe a pod that only listens, with the rights that every namespace here allows."""
    namespace, _, name = stranger.partition("/")
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
                    "command": ["python", "-m", "http.server", "8000"],
                    "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
