"""Policies on what a controller that applies these manifests again and again would see as changed.

A policy is a generator of violations.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .rendering import Resource, of, pod, title, workloads

# Fields that may be empty, and mean something by it.
EMPTY = {"podSelector", "emptyDir"}

# Annotations with which a tool is told to run something before, after or instead of an apply.
HOOKS = re.compile(r"(argocd\.argoproj|helm|(\w+\.)*toolkit\.fluxcd)\.(io|sh)/")

# Lists whose items have an identity, and the fields that are it: server-side apply merges them.
KEYED = {
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "containers": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "port", "protocol"),
}

# Lists that are replaced as a whole, and the defaults that the API server adds to each of their
# items: without them an item in the cluster differs from its manifest. From the API reference of
# Kubernetes and the schemas of CloudNativePG and of the Prometheus operator. Those of KEDA and of
# the Barman Cloud plugin have none for what is used here.
DEFAULTS = {
    ("NetworkPolicy", "ports"): {"protocol"},
    ("StatefulSet", "volumeClaimTemplates"): {"apiVersion", "kind"},
    ("Cluster", "roles"): {"ensure", "inherit", "connectionLimit"},
    ("Cluster", "plugins"): {"enabled", "isWALArchiver"},
    ("ServiceMonitor", "relabelings"): {"action"},
    ("Job", "onPodConditions"): {"status"},
}


# Where the metadata of an object stands in that of another.
TEMPLATES = {("template", "metadata"), ("volumeClaimTemplates", "metadata")}

GENERATED = ("ConfigMap", "Secret")


def fields(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each field below `value` with its path, in which an item has the name of its list."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key), each
            yield from fields(each, (*path, key))
    elif isinstance(value, list):
        for each in value:
            yield path, each
            yield from fields(each, path)


def canonical(quantity: Any) -> bool:
    """Whether the API server keeps a quantity as it is: a whole number with the largest unit."""
    if not isinstance(quantity, str):
        return False
    match = re.fullmatch(r"([1-9]\d*)(m|Ki|Mi|Gi|Ti)?", quantity)
    step = {"m": 1000, None: 10**18, "Ti": 10**18}
    return bool(match and int(match[1]) % step.get(match[2], 1024))


def quantities_are_canonical(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        for path, value in fields(resource):
            quantity = {*path[-2:-1]} & {"requests", "limits"} or path[-1] in {"sizeLimit", "size"}
            if quantity and not canonical(value):
                yield f"{title(resource)} has {value} as {path[-1]}"


def nothing_is_empty(resources: list[Resource]) -> Iterator[str]:
    """The API server drops a field without a value."""
    for resource in resources:
        for path, value in fields(resource):
            if value is None or (value in ({}, []) and path[-1] not in EMPTY):
                yield f"{title(resource)} has an empty {'.'.join(path)}"


def the_server_sets_its_fields_alone(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        if "status" in resource:
            yield f"{title(resource)} has a status"
        for path, value in fields(resource):
            if path == ("metadata",) or path[-2:] in TEMPLATES:
                names = value.keys() - {"name", "namespace", "labels", "annotations"}
                yield from (f"{title(resource)} sets {each}" for each in sorted(names))


def values_are_text(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        maps = [resource.get("data", {})] if resource["kind"] in GENERATED else []
        maps += [each for path, each in fields(resource) if path[-1] in {"labels", "annotations"}]
        for each in maps:
            wrong = [key for key, value in each.items() if not isinstance(value, str)]
            yield from (f"{title(resource)} has no text in {key}" for key in wrong)


def items_are_named_once(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        for path, value in fields(resource):
            if isinstance(value, list) and path[-1] in KEYED:
                names = Counter(tuple(each.get(key) for key in KEYED[path[-1]]) for each in value)
                twice = [name for name, number in names.items() if number > 1]
                yield from (f"{title(resource)} has {path[-1]} {name} twice" for name in twice)


def lists_that_are_replaced_have_the_defaults(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        for path, value in fields(resource):
            wanted = DEFAULTS.get((resource["kind"], path[-1]), set())
            for each in value if wanted and isinstance(value, list) else []:
                missing = sorted(wanted - each.keys())
                yield from (f"{title(resource)} has no {name} in {path[-1]}" for name in missing)


def there_are_no_hooks(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        for path, value in fields(resource):
            if path[-1] in {"annotations", "labels"}:
                found = filter(HOOKS.match, value)
                yield from (f"{title(resource)} has {each}" for each in found)


def each_namespace_comes_before_what_is_in_it(resources: list[Resource]) -> Iterator[str]:
    """The one order that an apply needs, beside the kinds that operators define."""
    seen: set[str] = set()
    made = {each["metadata"]["name"] for each in of(resources, "Namespace")}
    for resource in resources:
        if resource["kind"] == "Namespace":
            seen.add(resource["metadata"]["name"])
        elif resource["metadata"].get("namespace", "default") in made - seen:
            yield f"{title(resource)} comes before its namespace"


def references(workload: Resource) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each ConfigMap and Secret that a workload reads."""
    for path, value in fields(pod(workload)):
        if path[-1] in {"configMapRef", "configMapKeyRef", "configMap"}:
            yield "ConfigMap", value["name"]
        elif path[-1] in {"secretRef", "secretKeyRef"}:
            yield "Secret", value["name"]
        elif path[-1] == "secret":
            yield "Secret", value["secretName"]


def generated_names_are_those_that_are_read(resources: list[Resource]) -> Iterator[str]:
    """A changed ConfigMap has another name, and rolls the pods that read it."""
    names = {(each["kind"], each["metadata"]["name"]) for each in of(resources, *GENERATED)}
    kinds = {kind for kind, _ in names}  # in production, Secrets are not made here
    for workload in workloads(resources):
        for kind, name in references(workload):
            hashed = bool(re.search(r"-[a-z0-9]{10}$", name))
            # A Job can't be changed to read another name.
            wrong = hashed is (workload["kind"] == "Job") or (kind, name) not in names
            if kind in kinds and wrong:
                yield f"{title(workload)} reads the {kind} {name}"
