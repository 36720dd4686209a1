"""Computes from the NetworkPolicies which pods may connect to which."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .rendering import Resource, labels, matches, of, workloads

NAMESPACE = "voting"

# Pods outside of the app that connect to it, labelled as their manifests and charts label them; and
# pods that must not: one in each of their namespaces, and one with their labels in another.
OTHERS = {
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "traefik": ("traefik", {"app.kubernetes.io/name": "traefik"}),
    "prometheus": ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "keda": ("keda", {"app": "keda-operator"}),
    "cnpg": ("cnpg-system", {"app.kubernetes.io/name": "cloudnative-pg"}),
    "other pod": (NAMESPACE, {"app": "other"}),
    "next to dns": ("kube-system", {"k8s-app": "other"}),
    "next to traefik": ("traefik", {"app": "other"}),
    "next to prometheus": ("monitoring", {"app": "other"}),
    "next to keda": ("keda", {"app": "other"}),
    "next to cnpg": ("cnpg-system", {"app": "other"}),
    "impostor": ("default", {"app.kubernetes.io/name": "traefik", "k8s-app": "kube-dns"}),
}

TCP = (53, 443, 5432, 6379, 6443, 8000, 8080, 8082, 9090, 26379)
PORTS = ("53/UDP", *(f"{number}/TCP" for number in TCP))


class Pod(NamedTuple):
    name: str
    namespace: str
    labels: dict[str, str]


def all_pods(resources: list[Resource]) -> list[Pod]:
    found = [
        Pod(each["metadata"]["name"].partition("-")[0], NAMESPACE, labels(each))
        for each in workloads(resources)
        if each["metadata"].get("namespace") == NAMESPACE
    ]
    clusters = (each["metadata"]["name"] for each in of(resources, "Cluster"))
    found += [Pod(name, NAMESPACE, {"cnpg.io/cluster": name}) for name in clusters]
    return [*found, *(Pod(name, *pod) for name, pod in OTHERS.items())]


def allowed(resources: list[Resource], direction: str) -> set[str]:
    """Return the connections that the policies of one direction allow: "vote → redis 6379/TCP".

    `direction` is Ingress or Egress. Kubernetes requires both ends to allow a connection; each
    direction is checked alone, so that a strict one does not hide a loose one. The peer of a rule
    without peers is "any".
    """
    pods = all_pods(resources)
    found = set()
    for pod in (each for each in pods if each.namespace == NAMESPACE):
        for port in PORTS:
            for peer in _peers(_rules(resources, direction, pod), pod, port, pods):
                source, target = (pod.name, peer) if direction == "Egress" else (peer, pod.name)
                found.add(f"{source} → {target} {port}")
    return found


def _rules(resources: list[Resource], direction: str, pod: Pod) -> list[Resource]:
    specs = [
        each["spec"]
        for each in of(resources, "NetworkPolicy")
        if each["metadata"]["namespace"] == pod.namespace
        and direction in each["spec"]["policyTypes"]
        and matches(each["spec"]["podSelector"], pod.labels)
    ]
    # A pod that no policy selects may connect to any peer: that is an empty rule.
    return [rule for spec in specs for rule in spec.get(direction.lower(), [])] if specs else [{}]


def _peers(rules: Iterable[Resource], pod: Pod, port: str, pods: Iterable[Pod]) -> Iterator[str]:
    for rule in rules:
        if not _has_port(rule, port):
            continue
        if peers := rule.get("from") or rule.get("to"):
            yield from (each.name for each in pods if _is_peer(peers, pod, each))
        else:
            yield "any"


def _is_peer(peers: list[Resource], pod: Pod, peer: Pod) -> bool:
    for each in peers:
        assert set(each) <= {"podSelector", "namespaceSelector"}, "not implemented"
        there = {"kubernetes.io/metadata.name": peer.namespace}
        in_namespace = (
            matches(each["namespaceSelector"], there)
            if "namespaceSelector" in each
            else peer.namespace == pod.namespace
        )
        if in_namespace and matches(each.get("podSelector", {}), peer.labels):
            return True
    return False


def _has_port(rule: Resource, port: str) -> bool:
    if "ports" not in rule:
        return True
    return any(f"{each['port']}/{each.get('protocol', 'TCP')}" == port for each in rule["ports"])
