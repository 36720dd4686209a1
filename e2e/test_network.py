"""Network policies: each pod tries to connect to each other pod."""

from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest
import yaml
from support.wait import wait_for

from e2e.cluster import ADMIN_PORT, NAMESPACE, PORTS, WORKLOADS, Cluster
from e2e.kind import FOLDER
from e2e.target import Role

pytestmark = pytest.mark.cluster

# Runs in a pod: connects to all addresses at once, and prints those that accept.
CONNECT = """
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
CONNECT_WITH_BASH = """
for address; do
    (timeout 4 bash -c "exec 3<>/dev/tcp/${address%:*}/${address#*:}" && echo "$address") &
done 2>/dev/null
wait
"""

# Labels of additional pods by namespace and name.
CLIENT_PODS = {
    "voting/stranger": {},
    # The labels of the migration's pods, which no longer exist.
    "voting/migration": {
        "app.kubernetes.io/name": "voting",
        "app.kubernetes.io/component": "migrate",
    },
    # In the namespace of the ingress controller, which alone may connect to the pages.
    "traefik/stranger": {},
    "default/stranger": {"app.kubernetes.io/name": "traefik"},
}

# Without the API server: a pod may always connect to its node, and this cluster has one node.
# https://kubernetes.io/docs/concepts/services-networking/network-policies/
ALLOWED = {
    "vote": {"dns", "redis"},
    "result": {"dns", "postgres"},
    "worker": {"dns", "redis", "postgres"},
    "admin": {"dns", "redis", "postgres"},
    "redis": {"dns"},
    "postgres": {"dns"},
    "voting/stranger": {"dns"},
    "voting/migration": {"dns", "postgres"},
    # The policies restrict only connections to and from the app's namespace.
    "traefik/stranger": {"dns", "default/stranger"},
    "default/stranger": {"dns"},
}

# In addition, if Redis has three pods: each has a Sentinel, and they connect to each other.
WITH_SENTINELS = {
    "vote": {"sentinel"},
    "worker": {"sentinel"},
    "admin": {"sentinel"},
    "redis": {"redis", "sentinel"},
}


@pytest.fixture(scope="module")
def client_pods(cluster) -> Iterator[None]:
    """Additional pods, in the app's namespace and in others."""
    image = cluster.pods("vote")[0]["spec"]["containers"][0]["image"]
    file = FOLDER / "client_pods.yaml"
    pods = (pod(name, labels, image) for name, labels in CLIENT_PODS.items())
    file.write_text(yaml.safe_dump_all(pods))
    cluster.kind.kubectl("apply", "--filename", str(file))
    for each in CLIENT_PODS:
        namespace, _, name = each.partition("/")
        cluster.kind.kubectl(
            *("wait", f"pod/{name}", f"--namespace={namespace}", "--for=condition=Ready"),
            "--timeout=120s",
            timeout=130,
        )
    yield
    cluster.kind.kubectl("delete", "--filename", str(file), timeout=120)


@pytest.fixture(scope="module")
def listeners(cluster, client_pods) -> dict[str, str]:  # noqa: ARG001 - listens too
    """The addresses of listening pods, without Services.

    If a part has two pods, it is the one that `find_pod` does not return.
    """
    dns = cluster.kind.get("pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")
    last = {part: address(cluster.pods(part)[-1]) for part in WORKLOADS}
    strangers = ("voting/stranger", "default/stranger")
    sentinel = {"sentinel": f"{last['redis']}:26379"} if cluster.replicated else {}
    return {
        "dns": f"{address(dns['items'][0])}:53",
        **{server: f"{last[server]}:{port}" for server, port in PORTS.items()},
        **sentinel,
        **{page: f"{last[page]}:8080" for page in ("vote", "result")},
        **{f"operations of {role}": f"{last[role]}:9090" for role in get_args(Role)},
        "admin page": f"{last['admin']}:{ADMIN_PORT}",
        **{name: f"{address(find_pod(cluster, name))}:8000" for name in strangers},
    }


@pytest.mark.parametrize("source", ALLOWED)
def test_each_pair_is_allowed_or_denied(cluster, listeners, source):
    pod = find_pod(cluster, source)
    # A pod may always connect to itself.
    others = {name: to for name, to in listeners.items() if not to.startswith(f"{address(pod)}:")}
    allowed = ALLOWED[source]
    if cluster.replicated:
        allowed = allowed | WITH_SENTINELS.get(source, set())
    reached: set[str] = set()

    def all_allowed_reached() -> bool:
        # Denied addresses are tried as often as allowed ones.
        found = try_connect(cluster, pod, list(others.values()))
        reached.update(name for name, to in others.items() if to in found)
        return reached >= allowed

    wait_for(f"what {source} may reach", all_allowed_reached)
    assert reached == allowed


def test_the_admin_page_is_on_the_loopback_address_of_its_pod_only(cluster):
    [pod] = cluster.pods("admin")
    own = address(pod)
    # No policy applies within a pod.
    reached = try_connect(
        cluster, pod, [f"127.0.0.1:{ADMIN_PORT}", f"{own}:{ADMIN_PORT}", f"{own}:9090"]
    )
    assert reached == {f"127.0.0.1:{ADMIN_PORT}", f"{own}:9090"}


@pytest.mark.parametrize("page", ["vote", "result"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/version"])
@pytest.mark.parametrize("port", ["", ":9090"])
def test_the_ingress_does_not_lead_to_the_operations_port(cluster, page, path, port):
    with cluster.visitor(page) as visitor:
        response = visitor.get(path, headers={"Host": f"{page}.localhost{port}"})
    assert response.status_code == httpx.codes.NOT_FOUND
    assert "Content-Security-Policy" in response.headers  # only the pages send it


def test_no_service_has_the_operations_port_or_the_admin_page(cluster):
    ports = {
        service["metadata"]["name"]: [each["targetPort"] for each in service["spec"]["ports"]]
        for service in cluster.kind.get("services", f"--namespace={NAMESPACE}")["items"]
    }
    expected = {"vote": ["http"], "result": ["http"], "redis": ["redis"], "postgres": ["postgres"]}
    if cluster.replicated:
        expected |= {f"redis-{number}": ["redis", "sentinel"] for number in range(3)}
    assert ports == expected


def find_pod(cluster: Cluster, name: str) -> Any:
    """Find the first pod of a part of the app, or an additional pod."""
    namespace, _, stranger = name.rpartition("/")
    if not namespace:
        return cluster.pods(name)[0]
    return cluster.kind.get("pod", stranger, f"--namespace={namespace}")


def address(pod: Any) -> str:
    return str(pod["status"]["podIP"])


def try_connect(cluster: Cluster, pod: Any, addresses: list[str]) -> set[str]:
    """Try to connect from a pod, and return the addresses that accept."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    container = pod["spec"]["containers"][0]["name"]
    command = (
        ("bash", "-c", CONNECT_WITH_BASH, "-")
        if container in {"redis", "postgres"}
        else ("python", "-c", CONNECT)
    )
    words = ("exec", name, f"--namespace={namespace}", f"--container={container}", "--")
    return set(cluster.kind.kubectl(*words, *command, *addresses).split())


def pod(stranger: str, labels: dict[str, str], image: str) -> dict[str, Any]:
    """Return the manifest of a pod that listens, within the restricted standard."""
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
