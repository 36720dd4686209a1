"""Each component combines with each other, and has a README that says what it is."""

import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from . import pods, policies, wiring
from .rendering import COMPONENTS, DEPLOY, OVERLAYS, Resource, kustomize, of
from .test_policies import EVERYWHERE, Policy
from .test_schemas import CUSTOM, VERSIONS, validate

PREFIX = "components/"

# Pairs that an overlay does not have, each with its reason.
APART = {
    ("traefik", "traefik-gateway"): "the second has the first in it",
}

# Components that change what the others bring, or have a namespace of their own: an overlay adds
# them last and in this order, in a folder around that of the app.
LAST = ("traefik", "traefik-gateway", "openshift")

# What a component does not work without.
NEEDS = {
    # Its policies add to those: a pod that any policy selects may do nothing else.
    "redis-replicated": ["network-policies"],
}

# The policies that hold only with a component, or only without it.
WITH = {
    "network-policies": [wiring.only_the_listed_pairs_may_connect],
    "ingress": [wiring.the_ingress_leads_only_to_pages],
    "gateway": [
        wiring.the_gateway_leads_only_to_pages,
        wiring.the_gateway_removes_the_traces_of_clients,
    ],
    "redis-replicated": [
        policies.a_vote_is_on_two_disks,
        policies.redis_has_three_servers_and_sentinels,
        policies.each_pod_of_redis_has_a_stable_name,
        policies.redis_hands_over_before_it_stops,
        policies.sentinels_agree_with_the_lease,
    ],
    "autoscaling": [
        policies.only_autoscalers_set_replicas,
        policies.pods_are_added_before_they_need_more_than_they_request,
        policies.the_worker_scales_by_its_own_stream,
    ],
    "traefik-gateway": [wiring.traefik_serves_the_gateway],
}
WITHOUT = {
    # It leaves the user to the cluster.
    "openshift": [pods.every_pod_is_unprivileged],
}
# The base has no way in.
ONE_OF = {wiring.every_page_has_a_way_in: {"ingress", "gateway"}}

NAMES = [each.removeprefix(PREFIX) for each in COMPONENTS]
PAIRS = [pair for pair in combinations(NAMES, 2) if pair not in APART]


def combine(folder: Path, *names: str) -> list[Resource]:
    """Render the app of the overlay `kind` with these components in place of its own."""
    outer = [each for each in LAST if each in names]
    inner = [each for each in names if each not in LAST]
    app = DEPLOY / "overlays/kind/voting"
    shutil.copytree(app, folder / "app")
    kustomization = yaml.safe_load((app / "kustomization.yaml").read_text())
    # What fits the size of one machine. An autoscaler sets the replicas.
    del kustomization["patches"], kustomization["replicas"]
    for name, text in (
        ("app", kustomization),
        ("", {"kind": "Kustomization", "resources": ["app"]}),
    ):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        parts = inner if name else outer
        text["components"] = [os.path.relpath(DEPLOY / PREFIX / each, place) for each in parts]
        (place / "kustomization.yaml").write_text(yaml.dump(text))
    relative = os.path.relpath(DEPLOY / "base", folder / "app")
    path = folder / "app/kustomization.yaml"
    path.write_text(path.read_text().replace("../../../base", relative))
    return kustomize(folder)


def held_by(names: set[str]) -> list[Policy]:
    """Return the policies that hold for these components."""
    conditional = {policy for found in (*WITH.values(), *WITHOUT.values()) for policy in found}
    held = [each for each in EVERYWHERE if each not in {*conditional, *ONE_OF}]
    held += [policy for name, found in WITH.items() if name in names for policy in found]
    held += [policy for name, found in WITHOUT.items() if name not in names for policy in found]
    return held + [policy for policy, some in ONE_OF.items() if some & names]


seen: set[str] = set()


def validate_once(resource: Resource) -> None:
    """Validate against the oldest schema, unless this was done: pairs have most in common."""
    text = json.dumps(resource, sort_keys=True)
    if resource["kind"] not in CUSTOM and text not in seen:
        validate(resource, min(VERSIONS))
        seen.add(text)


def in_any_order(resources: list[Resource]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in resources)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_pair_of_components_combines(tmp_path: Path, pair: tuple[str, str]):
    needed = [each for name in pair for each in NEEDS.get(name, []) if each not in pair]
    resources = combine(tmp_path / "one", *needed, *pair)
    for resource in resources:
        validate_once(resource)
    for policy in held_by({*needed, *pair}):
        assert list(policy(resources)) == [], policy.__name__
    if not set(pair) & set(LAST):
        other = combine(tmp_path / "other", *needed, *reversed(pair))
        assert in_any_order(other) == in_any_order(resources)


@pytest.mark.parametrize("pair", APART, ids=" and ".join)
def test_a_pair_that_is_apart_does_not_render(tmp_path: Path, pair: tuple[str, str]):
    with pytest.raises(AssertionError, match="already registered"):
        combine(tmp_path, *pair)


def test_a_policy_that_a_pair_breaks_is_found(tmp_path: Path):
    resources = combine(tmp_path, "gateway", "network-policies")
    of(resources, "HTTPRoute")[0]["spec"]["rules"][0]["backendRefs"][0]["port"] = 9090
    held = held_by({"gateway", "network-policies"})
    assert [each.__name__ for each in held if list(each(resources))] == [
        "the_gateway_leads_only_to_pages"
    ]


@pytest.mark.parametrize("folder", [*COMPONENTS, *OVERLAYS])
def test_each_folder_has_a_readme_that_says_what_it_adds_needs_and_changes(folder: str):
    text = (DEPLOY / folder / "README.md").read_text()
    for part in ("**Adds**", "**Needs**", "**Change"):
        assert part in text
