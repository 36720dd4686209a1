"""Each property holds where it should, and is seen to fail when it is broken on purpose."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from inspect import isgeneratorfunction
from pathlib import Path

import pytest

from . import keeping, pods, wiring
from .rendering import DEPLOY, OVERLAYS, Resource, kustomize, labels, of, one, pod, render

KIND, PRODUCTION = OVERLAYS

Change = Callable[[list[Resource]], object]
Property = Callable[[list[Resource]], Iterator[str]]


@dataclass(frozen=True)
class Case:
    """A property, the overlays that it is of, and ways to break it."""

    property: Property
    breaks: tuple[Change, ...] = field(kw_only=True)
    overlays: tuple[str, ...] = OVERLAYS


def vote(resources: list[Resource]) -> Resource:
    return one(resources, "Deployment", "vote")


def container(resources: list[Resource], kind: str = "Deployment", name: str = "vote") -> Resource:
    return pod(one(resources, kind, name))["containers"][0]


def conf(old: str, new: str) -> Change:
    def change(resources: list[Resource]) -> None:
        data = one(resources, "ConfigMap", "redis")["data"]
        assert old in data["valkey.conf"]
        data["valkey.conf"] = data["valkey.conf"].replace(old, new)

    return change


def policy(resources: list[Resource], name: str) -> Resource:
    [found] = [each for each in of(resources, "NetworkPolicy") if each["metadata"]["name"] == name]
    return found["spec"]


def backend(resources: list[Resource]) -> Resource:
    rule = one(resources, "Ingress", "voting")["spec"]["rules"][0]
    return rule["http"]["paths"][0]["backend"]["service"]


def variable(name: str, secret: str) -> Resource:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}


CASES = [
    Case(
        pods.every_container_says_what_it_needs,
        breaks=(
            lambda r: container(r)["resources"]["limits"].pop("memory"),
            lambda r: container(r, name="result")["resources"].pop("requests"),
            lambda r: pod(one(r, "Deployment", "worker"))["initContainers"][0].pop("resources"),
            lambda r: container(r, "StatefulSet", "redis")["resources"]["limits"].pop("cpu"),
        ),
    ),
    Case(
        pods.every_container_is_confined,
        breaks=(
            lambda r: container(r)["securityContext"].update(readOnlyRootFilesystem=False),
            lambda r: container(r)["securityContext"].pop("allowPrivilegeEscalation"),
            lambda r: container(r)["securityContext"].update(capabilities={"drop": ["CHOWN"]}),
            lambda r: container(r)["securityContext"].update(privileged=True),
            lambda r: container(r, "Job", "migrate").pop("securityContext"),
        ),
    ),
    Case(
        pods.every_pod_is_nobody,
        breaks=(
            lambda r: pod(vote(r))["securityContext"].update(runAsUser=0),
            lambda r: pod(vote(r))["securityContext"].pop("runAsNonRoot"),
            lambda r: pod(vote(r))["securityContext"].pop("seccompProfile"),
            lambda r: pod(vote(r)).update(hostNetwork=True),
            lambda r: pod(vote(r)).pop("enableServiceLinks"),
        ),
    ),
    Case(
        pods.no_pod_has_a_token,
        breaks=(
            lambda r: pod(vote(r)).update(automountServiceAccountToken=True),
            lambda r: pod(vote(r)).pop("automountServiceAccountToken"),
            lambda r: pod(vote(r)).update(serviceAccountName="default"),
            lambda r: one(r, "ServiceAccount", "worker").pop("automountServiceAccountToken"),
        ),
    ),
    Case(
        wiring.each_role_gets_the_secrets_that_it_reads,
        breaks=(
            lambda r: container(r)["env"].append(variable("DATABASE_URL", "worker")),
            lambda r: container(r, name="result")["env"].append(variable("REDIS_URL", "vote")),
            lambda r: container(r, name="worker")["env"].append(variable("SECRET_KEYS", "vote")),
            lambda r: container(r)["env"].remove(
                next(each for each in container(r)["env"] if each["name"] == "SECRET_KEYS")
            ),
            lambda r: container(r)["env"][-1]["valueFrom"]["secretKeyRef"].update(name="worker"),
            lambda r: container(r)["envFrom"].append({"secretRef": {"name": "vote"}}),
        ),
    ),
    Case(
        wiring.each_secret_that_is_read_is_there,
        overlays=(KIND,),
        breaks=(
            lambda r: one(r, "Secret", "vote")["data"].pop("SECRET_KEYS"),
            lambda r: r.remove(one(r, "Secret", "postgres")),
            lambda r: r.remove(one(r, "Secret", "redis")),
        ),
    ),
    Case(
        keeping.no_secret_is_here,
        overlays=(PRODUCTION,),
        breaks=(lambda r: r.append({"kind": "Secret", "metadata": {"name": "vote"}}),),
    ),
    Case(
        wiring.selectors_select,
        breaks=(
            lambda r: one(r, "Service", "redis")["spec"]["selector"].update(other="label"),
            lambda r: labels(vote(r)).update({"app.kubernetes.io/component": "voter"}),
            lambda r: one(r, "PodDisruptionBudget", "vote")["spec"]["selector"][
                "matchLabels"
            ].update({"app.kubernetes.io/component": "voter"}),
            lambda r: policy(r, "redis")["podSelector"]["matchLabels"].update(other="label"),
            lambda r: pod(vote(r))["topologySpreadConstraints"][0]["labelSelector"][
                "matchLabels"
            ].update(other="label"),
        ),
    ),
    Case(
        keeping.everything_is_watched_and_scaled_that_should_be,
        overlays=(PRODUCTION,),
        breaks=(
            lambda r: one(r, "ServiceMonitor", "voting")["spec"]["selector"]["matchLabels"].update(
                other="label"
            ),
            lambda r: one(r, "ScaledObject", "worker")["spec"]["scaleTargetRef"].update(
                name="work"
            ),
            lambda r: one(r, "HorizontalPodAutoscaler", "vote")["spec"]["scaleTargetRef"].update(
                name="voter"
            ),
        ),
    ),
    Case(
        wiring.every_setting_is_in_the_configmap,
        breaks=(
            lambda r: one(r, "ConfigMap", "voting")["data"].pop("POLL_TITLE"),
            lambda r: one(r, "ConfigMap", "voting")["data"].update(POLL_TITEL="Cats"),
            lambda r: container(r)["env"][0].update(value="result"),
            lambda r: container(r)["envFrom"].clear(),
        ),
    ),
    Case(
        pods.containers_listen_where_they_are_asked,
        breaks=(
            lambda r: container(r)["ports"][0].update(containerPort=8000),
            lambda r: container(r)["livenessProbe"]["httpGet"].update(port="health"),
            lambda r: container(r, "StatefulSet", "redis")["ports"].clear(),
        ),
    ),
    Case(
        wiring.services_lead_to_ports,
        breaks=(
            lambda r: one(r, "Service", "vote")["spec"]["ports"][0].update(targetPort="web"),
            lambda r: container(r, name="result")["ports"][0].update(name="web"),
            lambda r: one(r, "Service", "vote")["spec"].update(type="NodePort"),
        ),
    ),
    Case(
        wiring.the_ingress_leads_to_pages_only,
        breaks=(
            lambda r: backend(r).update(port={"name": "ops"}),
            lambda r: backend(r).update(port={"number": 9090}),
            lambda r: backend(r).update(name="result"),
            lambda r: one(r, "Service", "vote")["spec"]["ports"][0].update(targetPort="ops"),
        ),
    ),
    Case(
        pods.probes_ask_what_they_should,
        breaks=(
            lambda r: container(r)["livenessProbe"]["httpGet"].update(path="/readyz"),
            lambda r: container(r, name="worker").pop("readinessProbe"),
            lambda r: container(r)["readinessProbe"].pop("timeoutSeconds"),
        ),
    ),
    Case(
        pods.a_rollout_refuses_nobody,
        breaks=(
            lambda r: vote(r)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
            lambda r: container(r).pop("lifecycle"),
            lambda r: pod(vote(r)).update(terminationGracePeriodSeconds=10),
            lambda r: one(r, "PodDisruptionBudget", "vote")["spec"].update(maxUnavailable=2),
        ),
    ),
    Case(
        pods.roles_wait_for_the_schema,
        breaks=(
            lambda r: pod(one(r, "Deployment", "result")).pop("initContainers"),
            lambda r: pod(one(r, "Deployment", "worker"))["initContainers"][0].update(image="a:1"),
            lambda r: pod(vote(r)).update(initContainers=[{"args": ["wait"], "image": "a:1"}]),
        ),
    ),
    Case(
        pods.the_job_is_named_after_its_image,
        breaks=(
            lambda r: of(r, "Job")[0]["metadata"].update(name="migrate-other"),
            lambda r: container(r).update(image="voting:other"),
            lambda r: container(r, "Job", "migrate").update(
                envFrom=[{"configMapRef": {"name": "voting-59d29bfd7b"}}]
            ),
            lambda r: of(r, "Job")[0]["spec"].pop("ttlSecondsAfterFinished"),
        ),
    ),
    Case(
        pods.images_are_named_by_tag,
        breaks=(
            lambda r: container(r).update(image="voting"),
            lambda r: container(r).update(image="voting:latest"),
            lambda r: container(r).update(imagePullPolicy="Always"),
        ),
    ),
    Case(
        keeping.autoscalers_rule_alone,
        overlays=(PRODUCTION,),
        breaks=(
            lambda r: vote(r)["spec"].update(replicas=3),
            lambda r: one(r, "ScaledObject", "worker")["spec"].update(minReplicaCount=0),
        ),
    ),
    Case(
        keeping.the_worker_is_scaled_by_the_stream_that_it_reads,
        overlays=(PRODUCTION,),
        breaks=(
            lambda r: one(r, "ScaledObject", "worker")["spec"]["triggers"][0]["metadata"].update(
                stream="ballots"
            ),
            lambda r: one(r, "ScaledObject", "worker")["spec"]["triggers"][0]["metadata"].update(
                consumerGroup="worker"
            ),
            lambda r: one(r, "ScaledObject", "worker")["spec"]["triggers"][0]["metadata"].update(
                address="redis:6379"
            ),
        ),
    ),
    Case(
        keeping.redis_syncs_before_it_answers,
        breaks=(
            conf("appendfsync always", "appendfsync everysec"),
            conf("appendonly yes", ""),
            conf("noeviction", "allkeys-lru"),
            conf("maxmemory 1gb", "maxmemory 2gb"),
        ),
    ),
    Case(
        keeping.data_is_on_volumes_that_stay,
        breaks=(
            lambda r: container(r, "StatefulSet", "redis")["volumeMounts"][0].update(
                mountPath="/var/data"
            ),
            lambda r: (
                pod(one(r, "StatefulSet", "redis"))["volumes"][0].update(emptyDir={})
                or pod(one(r, "StatefulSet", "redis"))["volumes"][0].pop("persistentVolumeClaim")
            ),
            lambda r: r.remove(one(r, "PersistentVolumeClaim", "redis")),
            lambda r: one(r, "StatefulSet", "redis")["spec"].update(replicas=2),
        ),
    ),
    Case(
        keeping.namespaces_are_restricted,
        breaks=(
            lambda r: one(r, "Namespace", "voting")["metadata"]["labels"].update(
                {"pod-security.kubernetes.io/enforce": "baseline"}
            ),
            lambda r: r.remove(one(r, "Namespace", "voting")),
        ),
    ),
    Case(
        wiring.only_the_listed_pairs_may_speak,
        breaks=(
            lambda r: r.remove(
                next(each for each in r if each["metadata"]["name"] == "default-deny")
            ),
            lambda r: policy(r, "redis")["ingress"][0].pop("from"),
            lambda r: policy(r, "vote")["ingress"][0]["from"][0].pop("podSelector"),
            lambda r: policy(r, "vote")["ingress"][0].pop("ports"),
            lambda r: policy(r, "vote")["ingress"][0]["ports"].append({"port": 9090}),
            lambda r: policy(r, "result")["egress"].clear(),
            lambda r: policy(r, "worker")["egress"][0]["to"][0].update(podSelector={}),
            lambda r: policy(r, "dns")["egress"][0]["to"][0].pop("podSelector"),
        ),
    ),
    Case(
        keeping.there_are_enough_pods,
        overlays=(PRODUCTION,),
        breaks=(
            lambda r: one(r, "HorizontalPodAutoscaler", "vote")["spec"].update(minReplicas=2),
            lambda r: r.remove(one(r, "ScaledObject", "worker")),
            lambda r: of(r, "Cluster")[0]["spec"].update(instances=1),
            lambda r: of(r, "Cluster")[0]["spec"]["postgresql"]["synchronous"].update(
                dataDurability="preferred"
            ),
            lambda r: of(r, "Cluster")[0]["spec"]["postgresql"]["synchronous"].pop(
                "failoverQuorum"
            ),
            lambda r: of(r, "Cluster")[0]["spec"].pop("plugins"),
        ),
    ),
    Case(
        keeping.voters_come_over_tls,
        overlays=(PRODUCTION,),
        breaks=(
            lambda r: one(r, "Ingress", "voting")["spec"].pop("tls"),
            lambda r: one(r, "ConfigMap", "voting")["data"].update(
                VOTE_URL="http://vote.example.com"
            ),
        ),
    ),
]

HOLDS = [(case.property, overlay) for case in CASES for overlay in case.overlays]
BREAKS = [
    (case.property, overlay, change)
    for case in CASES
    for overlay in case.overlays
    for change in case.breaks
]


def name(value: object) -> str:
    return value if isinstance(value, str) else value.__name__.replace("_", " ")


@pytest.mark.parametrize(("check", "overlay"), HOLDS, ids=name)
def test_it_holds(check: Property, overlay: str):
    assert list(check(render(overlay))) == []


@pytest.mark.parametrize(("check", "overlay", "change"), BREAKS, ids=name)
def test_it_is_seen_to_fail_when_broken(check: Property, overlay: str, change: Change):
    resources = render(overlay)
    change(resources)
    assert list(check(resources)), "nothing was found"


def test_a_digest_may_follow_the_tag_and_the_job_keeps_its_name(tmp_path: Path):
    production = Path(shutil.copytree(DEPLOY, tmp_path / "deploy")) / PRODUCTION
    path = production / "kustomization.yaml"
    tag, digest = '    newTag: "0.1.0"\n', f"sha256:{'5' * 64}"
    assert tag in path.read_text()
    path.write_text(path.read_text().replace(tag, f"{tag}    digest: {digest}\n"))
    resources = kustomize(production)
    assert container(resources)["image"].endswith(f"/voting:0.1.0@{digest}")
    assert one(resources, "Job", "migrate")["metadata"]["name"] == "migrate-0.1.0"
    assert list(pods.the_job_is_named_after_its_image(resources)) == []
    assert list(pods.images_are_named_by_tag(resources)) == []


def test_every_property_is_tested():
    defined = {
        each
        for module in (keeping, pods, wiring)
        for each in vars(module).values()
        if getattr(each, "__module__", "") == module.__name__ and isgeneratorfunction(each)
    }
    assert defined == {case.property for case in CASES}
