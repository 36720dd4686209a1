"""Upgrades, scaling and deleted pods, while voters vote and viewers poll."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, get_args

import httpx
import pytest
from support.wait import wait_for

from e2e.cluster import NAMESPACE, Cluster, is_ready
from e2e.running import CommandError
from e2e.target import Role, Server
from voting.load.client import Connection
from voting.load.record import Acknowledgement

pytestmark = pytest.mark.cluster

REQUESTS = 5000


@asynccontextmanager
async def viewers(cluster: Cluster, number: int = 4) -> AsyncIterator[Counter[int]]:
    """Poll the result page, and count the statuses of its responses."""
    seen: Counter[int] = Counter()
    end = asyncio.Event()

    async def watch() -> None:
        async with Connection(cluster.address("result")) as connection:
            while not end.is_set():
                seen[(await connection.get("/tally")).status] += 1
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(number):
            tasks.create_task(watch())
        try:
            yield seen
        finally:
            end.set()


def test_the_schema_was_migrated_by_a_job_of_this_version(cluster):
    assert cluster.migrated(cluster.tags[0])


async def test_a_rollout_fails_no_request(cluster):
    before = names(cluster)
    async with viewers(cluster) as seen, cluster.load() as voters:
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(cluster.restart, "vote", "result")
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        await voters.wait_for(REQUESTS, Acknowledgement.ACKNOWLEDGED)
    assert not before & names(cluster)
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}
    assert seen.keys() == {200}


async def test_an_upgrade_migrates_with_a_job_of_its_own_and_fails_no_request(cluster):
    old, new = cluster.tags
    async with viewers(cluster) as seen, cluster.load() as voters:
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(cluster.apply, new)
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
    assert cluster.migrated(old)
    assert cluster.migrated(new)
    images = {pod["spec"]["containers"][0]["image"] for pod in roles(cluster)}
    assert images == {f"voting:{new}"}
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}
    assert seen.keys() == {200}


async def test_scaling_workers_loses_nothing(cluster):
    async with cluster.load() as voters:
        for replicas in (3, 1):
            await voters.wait_for_more(1000, Acknowledgement.ACKNOWLEDGED)
            await asyncio.to_thread(cluster.scale, "worker", replicas)
            assert len(cluster.pods("worker")) == replicas
        await voters.wait_for_more(1000, Acknowledgement.ACKNOWLEDGED)
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}


async def test_deleting_the_pods_of_both_servers_loses_nothing(cluster):
    volumes = volumes_of(cluster)
    async with cluster.load() as voters:
        await voters.wait_for_more(1000, Acknowledgement.ACKNOWLEDGED)
        primary = await asyncio.to_thread(cluster.primary)
        words = ("delete", "pod", primary, "postgres-0", "--timeout=150s")
        await asyncio.to_thread(cluster.kubectl, *words, timeout=160)
        await asyncio.to_thread(cluster.ready)
        await voters.wait_for_more(1000, Acknowledgement.ACKNOWLEDGED)
    assert volumes_of(cluster) == volumes


async def test_draining_the_node_leaves_a_pod_of_each_page(cluster):
    node = cluster.pods("vote")[0]["spec"]["nodeName"]
    async with viewers(cluster) as seen, cluster.load() as voters:
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        try:
            # This is the only node: evicted pods stay pending, so the budgets must keep the others.
            # For each of those, `kubectl drain` prints every five seconds:
            #   error when evicting pods/"NAME" -n "voting" (will retry after 5s): Cannot evict pod
            #   as it would violate the pod's disruption budget.
            # https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/ (429)
            with pytest.raises(CommandError) as refused:
                await asyncio.to_thread(
                    cluster.kubectl,
                    *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data"),
                    *("--pod-selector=app.kubernetes.io/name=voting", "--timeout=40s"),
                )
            assert "would violate the pod's disruption budget" in str(refused.value)
            for page in ("vote", "result"):
                assert [is_ready(pod) for pod in cluster.pods(page)].count(True) == 1
        finally:
            cluster.kubectl("uncordon", node)
        await asyncio.to_thread(cluster.ready)
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}
    assert seen.keys() == {200}


def test_without_its_pods_a_page_is_unavailable_not_unknown(cluster):
    # "Implementations SHOULD return a 503", where the others are 500.
    # https://gateway-api.sigs.k8s.io/reference/api-spec/main/spec/
    statuses = {500, 503} if cluster.gateway else {503}

    def unavailable() -> bool:
        with suppress(httpx.TransportError), cluster.visitor("vote") as visitor:
            response = visitor.get("/")
            own = "Content-Security-Policy" in response.headers  # only the pages send it
            return response.status_code in statuses and not own
        return False

    with cluster.unavailable("vote"):
        wait_for("no vote page", unavailable, cluster.patience)


def test_applying_twice_changes_nothing(cluster):
    tag = roles(cluster)[0]["spec"]["containers"][0]["image"].partition(":")[2]
    # `kubectl diff` exits with 0 for "no differences were found", and with 1 for differences.
    # https://kubernetes.io/docs/reference/kubectl/generated/kubectl_diff/
    cluster.kind.kubectl("diff", "--kustomize", str(cluster.kind.render(tag)))
    before = generations(cluster)
    cluster.kind.apply(tag)
    assert generations(cluster) == before


def test_a_pod_with_more_rights_than_it_needs_is_refused(cluster):
    # Error from server (Forbidden): pods "stranger" is forbidden: violates PodSecurity
    # "restricted:latest": allowPrivilegeEscalation != false (…)
    # https://kubernetes.io/docs/concepts/security/pod-security-admission/
    pod = ("run", "stranger", f"--image=voting:{cluster.tags[0]}", "--dry-run=server")
    with pytest.raises(CommandError, match='violates PodSecurity "restricted:'):
        cluster.kubectl(*pod)


def roles(cluster: Cluster) -> list[Any]:
    return [pod for role in get_args(Role) for pod in cluster.pods(role)]


def names(cluster: Cluster) -> set[str]:
    """Return the names of the pods of both pages."""
    return {pod["metadata"]["name"] for page in ("vote", "result") for pod in cluster.pods(page)}


def volumes_of(cluster: Cluster) -> list[str | None]:
    """Return the names of the volumes of both servers' first pods."""
    return [cluster.volume(cluster.claim(server)) for server in get_args(Server)]


def generations(cluster: Cluster) -> dict[str, Any]:
    """Return the UID and the generation of each object."""
    kinds = "deployments,statefulsets,jobs,services,ingresses,networkpolicies,configmaps,secrets"
    if cluster.gateway:
        kinds += ",gateways,httproutes"
    found = cluster.kind.get(
        f"{kinds},pods,poddisruptionbudgets,serviceaccounts,persistentvolumeclaims",
        f"--namespace={NAMESPACE}",
    )["items"]
    return {
        f"{each['kind']} {each['metadata']['name']}": (
            each["metadata"]["uid"],
            each["metadata"].get("generation"),
        )
        for each in found
        if "deletionTimestamp" not in each["metadata"]
    }
