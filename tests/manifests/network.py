"""Works out from the NetworkPolicies who may speak with whom."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .rendering import Resource, labels, matches, of, workloads

NAMESPACE = "voting"

# Who speaks with the app's pods from outside, each labelled as its own manifests and charts do; and
# who should not: somebody beside each of them, and somebody who took their labels.
OTHERS = {
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "traefik": ("traefik", {"app.kubernetes.io/name": "traefik"}),
    "prometheus": ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "keda": ("keda", {"app": "keda-operator"}),
    "cnpg": ("cnpg-system", {"app.kubernetes.io/name": "cloudnative-pg"}),
    "stranger": (NAMESPACE, {"app": "stranger"}),
    "beside dns": ("kube-system", {"k8s-app": "stranger"}),
    "beside traefik": ("traefik", {"app": "stranger"}),
    "beside prometheus": ("monitoring", {"app": "stranger"}),
    "beside keda": ("keda", {"app": "stranger"}),
    "beside cnpg": ("cnpg-system", {"app": "stranger"}),
    "impostor": ("default", {"app.kubernetes.io/name": "traefik", "k8s-app": "kube-dns"}),
}

PORTS = ("53/UDP", "53/TCP", "443/TCP", *(f"{n}/TCP" for n in (5432, 6379, 6443, 8000, 8080, 9090)))


class Actor(NamedTuple):
    name: str
    namespace: str
    labels: dict[str, str]


def actors(resources: list[Resource]) -> list[Actor]:
    found = [
        Actor(each["metadata"]["name"].partition("-")[0], NAMESPACE, labels(each))
        for each in workloads(resources)
        if each["metadata"].get("namespace") == NAMESPACE
    ]
    found += [
        Actor(each["metadata"]["name"], NAMESPACE, {"cnpg.io/cluster": each["metadata"]["name"]})
        for each in of(resources, "Cluster")
    ]
    return [*found, *(Actor(name, *where) for name, where in OTHERS.items())]


def allowed(resources: list[Resource], way: str) -> set[str]:
    """Find what the policies of one way, Ingress or Egress, allow: "vote → redis 6379/TCP".

    Both ends have to allow it, so each way is looked at alone: neither may be loose because the
    other is not. A rule that names no peer is for "anybody".
    """
    everybody = actors(resources)
    found = set()
    for pod in everybody:
        if pod.namespace != NAMESPACE:
            continue
        for port in PORTS:
            for peer in _peers(_rules(resources, way, pod), pod, port, everybody):
                ends = (pod.name, peer) if way == "Egress" else (peer, pod.name)
                found.add(f"{ends[0]} → {ends[1]} {port}")
    return found


def _rules(resources: list[Resource], way: str, pod: Actor) -> list[Resource]:
    specs = [
        each["spec"]
        for each in of(resources, "NetworkPolicy")
        if each["metadata"]["namespace"] == pod.namespace
        and way in each["spec"]["policyTypes"]
        and matches(each["spec"]["podSelector"], pod.labels)
    ]
    # A pod that no policy selects may do all, which is a rule that names nobody.
    return [rule for spec in specs for rule in spec.get(way.lower(), [])] if specs else [{}]


def _peers(
    rules: Iterable[Resource], pod: Actor, port: str, everybody: Iterable[Actor]
) -> Iterator[str]:
    for rule in rules:
        if not _has(rule, port):
            continue
        if peers := rule.get("from") or rule.get("to"):
            yield from (each.name for each in everybody if _is_peer(peers, pod, each))
        else:
            yield "anybody"


def _is_peer(peers: list[Resource], pod: Actor, peer: Actor) -> bool:
    for each in peers:
        assert set(each) <= {"podSelector", "namespaceSelector"}, "not needed so far"
        there = {"kubernetes.io/metadata.name": peer.namespace}
        in_namespace = (
            matches(each["namespaceSelector"], there)
            if "namespaceSelector" in each
            else peer.namespace == pod.namespace
        )
        if in_namespace and matches(each.get("podSelector", {}), peer.labels):
            return True
    return False


def _has(rule: Resource, port: str) -> bool:
    if "ports" not in rule:
        return True
    return any(f"{each['port']}/{each.get('protocol', 'TCP')}" == port for each in rule["ports"])
