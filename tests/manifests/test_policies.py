"""Each policy holds for the overlays, and finds each mistake that is put into them."""

import shutil
from collections.abc import Callable, Iterator
from inspect import isgeneratorfunction
from pathlib import Path

import pytest

from . import pods, policies, wiring
from .rendering import (
    DEPLOY,
    OVERLAYS,
    Resource,
    kustomize,
    labels,
    of,
    one,
    pod,
    render,
    workloads,
)

KIND, GATEWAY, REPLICATED, PRODUCTION = OVERLAYS

Change = Callable[[list[Resource]], object]
Policy = Callable[[list[Resource]], Iterator[str]]
Mistakes = dict[Policy, list[Change]]


def vote(resources: list[Resource]) -> Resource:
    return one(resources, "Deployment", "vote")


def spec(resources: list[Resource], kind: str, name: str) -> Resource:
    return one(resources, kind, name)["spec"]


def trigger(resources: list[Resource]) -> Resource:
    return spec(resources, "ScaledObject", "worker")["triggers"][0]["metadata"]


def target(resources: list[Resource]) -> Resource:
    [metric] = spec(resources, "HorizontalPodAutoscaler", "vote")["metrics"]
    return metric["containerResource"]["target"]


def postgres(resources: list[Resource]) -> Resource:
    return of(resources, "Cluster")[0]["spec"]


def container(resources: list[Resource], kind: str = "Deployment", name: str = "vote") -> Resource:
    return pod(one(resources, kind, name))["containers"][0]


def replace_in_conf(old: str, new: str, name: str = "valkey.conf") -> Change:
    def change(resources: list[Resource]) -> None:
        data = one(resources, "ConfigMap", "redis")["data"]
        assert old in data[name]
        data[name] = data[name].replace(old, new)

    return change


def redis(resources: list[Resource]) -> Resource:
    return pod(one(resources, "StatefulSet", "redis"))


def data_mount(resources: list[Resource]) -> Resource:
    [mount] = [
        each
        for each in container(resources, "StatefulSet", "redis")["volumeMounts"]
        if each["name"] == "data"
    ]
    return mount


def network_policy(resources: list[Resource], name: str) -> Resource:
    return spec(resources, "NetworkPolicy", name)


def backend(resources: list[Resource]) -> Resource:
    rule = one(resources, "Ingress", "voting")["spec"]["rules"][0]
    return rule["http"]["paths"][0]["backend"]["service"]


def listener(resources: list[Resource], name: str) -> Resource:
    [found] = [
        each for each in spec(resources, "Gateway", "voting")["listeners"] if each["name"] == name
    ]
    return found


def rule(resources: list[Resource], route: str = "vote") -> Resource:
    return spec(resources, "HTTPRoute", route)["rules"][0]


def removed_headers(resources: list[Resource]) -> list[str]:
    return rule(resources)["filters"][0]["requestHeaderModifier"]["remove"]


def variable(name: str, secret: str) -> Resource:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}


EVERYWHERE: Mistakes = {
    pods.every_container_has_requests_and_limits: [
        lambda r: container(r)["resources"]["limits"].pop("memory"),
        lambda r: container(r, name="result")["resources"].pop("requests"),
        lambda r: pod(one(r, "Deployment", "worker"))["initContainers"][0].pop("resources"),
        lambda r: container(r, "StatefulSet", "redis")["resources"]["limits"].pop("cpu"),
    ],
    pods.every_container_is_confined: [
        lambda r: container(r)["securityContext"].update(readOnlyRootFilesystem=False),
        lambda r: container(r)["securityContext"].pop("allowPrivilegeEscalation"),
        lambda r: container(r)["securityContext"].update(capabilities={"drop": ["CHOWN"]}),
        lambda r: container(r)["securityContext"].update(privileged=True),
        lambda r: container(r, "Job", "migrate").pop("securityContext"),
    ],
    pods.every_pod_is_unprivileged: [
        lambda r: pod(vote(r))["securityContext"].update(runAsUser=0),
        lambda r: pod(vote(r))["securityContext"].pop("runAsNonRoot"),
        lambda r: pod(vote(r))["securityContext"].pop("seccompProfile"),
        lambda r: pod(vote(r)).update(hostNetwork=True),
        lambda r: pod(vote(r)).pop("enableServiceLinks"),
    ],
    pods.no_pod_has_a_token: [
        lambda r: pod(vote(r)).update(automountServiceAccountToken=True),
        lambda r: pod(vote(r)).pop("automountServiceAccountToken"),
        lambda r: pod(vote(r)).update(serviceAccountName="default"),
        lambda r: one(r, "ServiceAccount", "worker").pop("automountServiceAccountToken"),
    ],
    wiring.each_role_gets_exactly_the_secrets_it_reads: [
        lambda r: container(r)["env"].append(variable("DATABASE_URL", "worker")),
        lambda r: container(r, name="result")["env"].append(variable("REDIS_URL", "vote")),
        lambda r: container(r, name="worker")["env"].append(variable("SECRET_KEYS", "vote")),
        lambda r: container(r)["env"].pop(),
        lambda r: container(r)["env"][-1]["valueFrom"]["secretKeyRef"].update(name="worker"),
        lambda r: container(r)["envFrom"].append({"secretRef": {"name": "vote"}}),
        lambda r: container(r, name="admin")["env"][1].update(value="a token to be guessed"),
        lambda r: container(r, name="admin")["env"].append(variable("SECRET_KEYS", "vote")),
    ],
    wiring.selectors_match_pods: [
        lambda r: spec(r, "Service", "redis")["selector"].update(other="label"),
        lambda r: labels(vote(r)).update({"app.kubernetes.io/component": "voter"}),
        lambda r: spec(r, "PodDisruptionBudget", "vote")["selector"]["matchLabels"].update(
            other="label"
        ),
        lambda r: network_policy(r, "redis")["podSelector"]["matchLabels"].update(other="label"),
        lambda r: pod(vote(r))["topologySpreadConstraints"][0].update(
            labelSelector={"matchLabels": {"other": "label"}}
        ),
    ],
    wiring.every_setting_is_in_the_configmaps_of_its_readers: [
        lambda r: one(r, "ConfigMap", "voting")["data"].pop("SHOW_RESULTS"),
        lambda r: one(r, "ConfigMap", "voting")["data"].update(POLL_TITLE="Cats"),
        lambda r: one(r, "ConfigMap", "question")["data"].pop("OPTION_B"),
        lambda r: one(r, "ConfigMap", "migrate")["data"].update(POLL_TITLE="Cats"),
        lambda r: [
            one(r, "ConfigMap", name)["data"].update(OPTION_M="Cows")
            for name in ("question", "migrate")
        ],
        lambda r: container(r)["envFrom"].append(container(r, name="worker")["envFrom"][1]),
        lambda r: container(r, name="worker")["envFrom"].pop(),
        lambda r: container(r)["env"][0].update(value="result"),
        lambda r: container(r)["envFrom"].clear(),
    ],
    pods.containers_listen_on_the_probed_ports: [
        lambda r: container(r)["ports"][0].update(containerPort=8000),
        lambda r: container(r, name="admin")["ports"][0].update(containerPort=8080),
        lambda r: container(r)["livenessProbe"]["httpGet"].update(port="health"),
        lambda r: container(r, "StatefulSet", "redis")["ports"].clear(),
    ],
    wiring.services_target_container_ports: [
        lambda r: spec(r, "Service", "vote")["ports"][0].update(targetPort="web"),
        lambda r: container(r, name="result")["ports"][0].update(name="web"),
        lambda r: spec(r, "Service", "vote").update(type="NodePort"),
    ],
    wiring.no_service_leads_to_the_admin_page: [
        lambda r: spec(r, "Service", "result")["selector"].update(
            {"app.kubernetes.io/component": "admin"}
        ),
        lambda r: labels(one(r, "Deployment", "admin")).update(
            {"app.kubernetes.io/component": "vote"}
        ),
    ],
    wiring.every_page_has_a_way_in: [
        lambda r: [r.remove(each) for each in of(r, "Ingress", "HTTPRoute")],
    ],
    pods.probes_request_the_right_paths: [
        lambda r: container(r)["livenessProbe"]["httpGet"].update(path="/readyz"),
        lambda r: container(r, name="worker").pop("readinessProbe"),
        lambda r: container(r)["readinessProbe"].pop("timeoutSeconds"),
    ],
    pods.a_rollout_refuses_no_request: [
        lambda r: vote(r)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        lambda r: container(r).pop("lifecycle"),
        lambda r: pod(vote(r)).update(terminationGracePeriodSeconds=10),
        lambda r: spec(r, "PodDisruptionBudget", "vote").update(maxUnavailable=2),
    ],
    pods.there_is_one_admin: [
        lambda r: spec(r, "Deployment", "admin").update(replicas=2),
        lambda r: spec(r, "Deployment", "admin").update(strategy={"type": "RollingUpdate"}),
    ],
    pods.roles_wait_for_the_schema: [
        lambda r: pod(one(r, "Deployment", "result")).pop("initContainers"),
        lambda r: pod(one(r, "Deployment", "worker"))["initContainers"][0].update(image="a:1"),
        lambda r: pod(vote(r)).update(initContainers=[{"args": ["wait"], "image": "a:1"}]),
    ],
    pods.the_job_is_named_after_its_image: [
        lambda r: of(r, "Job")[0]["metadata"].update(name="migrate-other"),
        lambda r: container(r).update(image="voting:other"),
        lambda r: container(r, "Job", "migrate").update(
            envFrom=[{"configMapRef": {"name": "voting-59d29bfd7b"}}]
        ),
        lambda r: of(r, "Job")[0]["spec"].update(ttlSecondsAfterFinished=86400),
    ],
    pods.images_have_tags: [
        lambda r: container(r).update(image="voting"),
        lambda r: container(r).update(image="voting:latest"),
        lambda r: container(r).update(imagePullPolicy="Always"),
    ],
    policies.redis_syncs_before_it_replies: [
        replace_in_conf("appendfsync always", "appendfsync everysec"),
        replace_in_conf("appendonly yes", ""),
        replace_in_conf("noeviction", "allkeys-lru"),
        replace_in_conf("maxmemory 1gb", "maxmemory 2gb"),
    ],
    policies.namespaces_are_restricted: [
        lambda r: one(r, "Namespace", "voting")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        lambda r: r.remove(one(r, "Namespace", "voting")),
    ],
    wiring.only_the_listed_pairs_may_connect: [
        lambda r: r.remove(one(r, "NetworkPolicy", "default-deny")),
        lambda r: network_policy(r, "redis")["ingress"][0].pop("from"),
        lambda r: network_policy(r, "vote")["ingress"][0]["from"][0].pop("podSelector"),
        lambda r: network_policy(r, "vote")["ingress"][0].pop("ports"),
        lambda r: network_policy(r, "vote")["ingress"][0]["ports"].append({"port": 9090}),
        lambda r: network_policy(r, "result")["egress"].clear(),
        lambda r: network_policy(r, "worker")["egress"][0]["to"][0].update(podSelector={}),
        lambda r: network_policy(r, "admin").update(
            policyTypes=["Ingress", "Egress"], ingress=[{"ports": [{"port": 8082}]}]
        ),
        lambda r: network_policy(r, "dns")["egress"][0]["to"][0].pop("podSelector"),
    ],
}

WITH_ONE_REDIS: Mistakes = {
    policies.data_is_on_persistent_volumes: [
        lambda r: data_mount(r).update(mountPath="/var"),
        lambda r: redis(r)["volumes"][0].pop("persistentVolumeClaim"),
        lambda r: r.remove(one(r, "PersistentVolumeClaim", "redis")),
        lambda r: spec(r, "StatefulSet", "redis").update(replicas=2),
    ],
}

WITH_REPLICAS: Mistakes = {
    policies.data_is_on_persistent_volumes: [
        lambda r: data_mount(r).update(mountPath="/var"),
        lambda r: spec(r, "StatefulSet", "redis").pop("volumeClaimTemplates"),
        lambda r: r.append({"kind": "PersistentVolumeClaim", "metadata": {"name": "redis"}}),
    ],
    policies.a_vote_is_on_two_disks: [
        lambda r: one(r, "ConfigMap", "voting")["data"].update(REDIS_REPLICAS="0"),
        replace_in_conf("min-replicas-to-write 1", "", "replicated.conf"),
        replace_in_conf("min-replicas-max-lag 3", "min-replicas-max-lag 30", "replicated.conf"),
    ],
    policies.redis_has_three_servers_and_sentinels: [
        lambda r: spec(r, "StatefulSet", "redis").update(replicas=2),
        lambda r: spec(r, "StatefulSet", "redis").update(podManagementPolicy="OrderedReady"),
        lambda r: redis(r)["initContainers"][0].pop("restartPolicy"),
        lambda r: redis(r)["initContainers"][0].pop("startupProbe"),
        lambda r: redis(r)["initContainers"][0].update(command=["valkey-server", "--sentinel"]),
        lambda r: redis(r)["initContainers"][0].update(image="valkey/valkey:8"),
        lambda r: redis(r)["initContainers"][0]["volumeMounts"].pop(),
        lambda r: redis(r)["containers"][0].update(command=["valkey-server"]),
    ],
    policies.each_pod_of_redis_has_a_stable_name: [
        lambda r: spec(r, "Service", "redis-1").pop("publishNotReadyAddresses"),
        lambda r: spec(r, "Service", "redis-1").update(
            selector=labels(one(r, "StatefulSet", "redis"))
        ),
        lambda r: spec(r, "Service", "redis-1").update(clusterIP="None"),
        lambda r: spec(r, "Service", "redis-1")["ports"].pop(),
    ],
    policies.redis_hands_over_before_it_stops: [
        lambda r: redis(r)["containers"][0].pop("lifecycle"),
        lambda r: redis(r)["containers"][0]["readinessProbe"].update(exec={"command": ["true"]}),
        lambda r: redis(r).update(terminationGracePeriodSeconds=30),
        lambda r: spec(r, "PodDisruptionBudget", "redis").update(maxUnavailable=2),
    ],
    policies.sentinels_agree_with_the_lease: [
        replace_in_conf("announce-hostnames yes", "announce-hostnames no", "sentinel.conf"),
        replace_in_conf("failover-timeout voting 2000", "", "sentinel.conf"),
        replace_in_conf("(6500 + ", "(2500 + ", "redis.sh"),
    ],
    wiring.only_the_listed_pairs_may_connect: [
        *EVERYWHERE[wiring.only_the_listed_pairs_may_connect],
        lambda r: network_policy(r, "redis-peers")["ingress"][1].pop("from"),
        lambda r: network_policy(r, "redis-peers")["ingress"][0].pop("ports"),
        lambda r: network_policy(r, "redis-peers")["egress"].clear(),
        lambda r: r.remove(one(r, "NetworkPolicy", "sentinel")),
    ],
}

WITH_INGRESS: Mistakes = {
    wiring.every_page_has_a_way_in: [lambda r: spec(r, "Ingress", "voting")["rules"].pop()],
    wiring.the_ingress_leads_only_to_pages: [
        lambda r: backend(r).update(port={"name": "ops"}),
        lambda r: backend(r).update(port={"number": 9090}),
        lambda r: backend(r).update(name="result"),
        lambda r: one(r, "ConfigMap", "voting")["data"].update(RESULT_URL="https://other.example"),
        lambda r: spec(r, "Service", "vote")["ports"][0].update(targetPort="ops"),
    ],
}

WITH_GATEWAY: Mistakes = {
    wiring.every_page_has_a_way_in: [lambda r: r.remove(one(r, "HTTPRoute", "result"))],
    wiring.the_gateway_leads_only_to_pages: [
        lambda r: rule(r)["backendRefs"][0].update(port=9090),
        lambda r: rule(r)["backendRefs"][0].update(name="result"),
        lambda r: one(r, "ConfigMap", "voting")["data"].update(RESULT_URL="https://other.example"),
        lambda r: spec(r, "HTTPRoute", "vote").update(hostnames=["other.example"]),
        lambda r: listener(r, "vote").update(hostname="other.example"),
        lambda r: listener(r, "vote").update(name="other"),
        lambda r: spec(r, "HTTPRoute", "vote")["parentRefs"][0].update(name="other"),
        lambda r: spec(r, "Service", "vote")["ports"][0].update(port=8080),
        lambda r: spec(r, "Service", "vote")["ports"][0].update(targetPort="ops"),
    ],
    wiring.the_gateway_removes_the_traces_of_clients: [
        lambda r: rule(r).pop("filters"),
        lambda r: rule(r, "result").update(filters=[]),
        lambda r: removed_headers(r).remove("traceparent"),
        lambda r: removed_headers(r).remove("tracestate"),
        lambda r: removed_headers(r).remove("baggage"),
    ],
}

IN_KIND_WITH_GATEWAY: Mistakes = {
    wiring.traefik_serves_the_gateway: [
        lambda r: r.remove(one(r, "GatewayClass", "traefik")),
        lambda r: spec(r, "Gateway", "voting").update(gatewayClassName="other"),
        lambda r: listener(r, "result").update(port=80),
        lambda r: container(r, name="traefik")["args"].remove("--providers.kubernetesgateway=true"),
        lambda r: container(r, name="traefik")["args"].remove("--entrypoints.web.address=:8000"),
    ],
}

IN_KIND: Mistakes = {
    policies.postgres_buffers_a_quarter_of_its_memory: [
        lambda r: container(r, "StatefulSet", "postgres")["resources"]["limits"].update(
            memory="512Mi"
        ),
    ],
    wiring.each_secret_that_is_read_exists: [
        lambda r: one(r, "Secret", "vote")["data"].pop("SECRET_KEYS"),
        lambda r: r.remove(one(r, "Secret", "postgres")),
        lambda r: r.remove(one(r, "Secret", "redis")),
    ],
}

IN_PRODUCTION: Mistakes = {
    policies.redis_is_on_three_nodes: [
        lambda r: redis(r).pop("affinity"),
        lambda r: redis(r)["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ][0].update(topologyKey="topology.kubernetes.io/zone"),
    ],
    policies.postgres_buffers_a_quarter_of_its_memory: [
        lambda r: postgres(r)["postgresql"]["parameters"].update(shared_buffers="1GB"),
    ],
    policies.no_secret_is_rendered: [
        lambda r: r.append({"kind": "Secret", "metadata": {"name": "vote"}}),
    ],
    policies.monitors_and_autoscalers_match_resources: [
        lambda r: spec(r, "ServiceMonitor", "voting")["selector"].update(matchLabels={"a": "b"}),
        lambda r: spec(r, "ScaledObject", "worker")["scaleTargetRef"].update(name="work"),
        lambda r: spec(r, "HorizontalPodAutoscaler", "vote")["scaleTargetRef"].update(name="voter"),
    ],
    policies.only_autoscalers_set_replicas: [
        lambda r: vote(r)["spec"].update(replicas=3),
        lambda r: spec(r, "ScaledObject", "worker").update(minReplicaCount=0),
    ],
    policies.pods_are_added_before_they_need_more_than_they_request: [
        lambda r: target(r).update(averageUtilization=100),
        lambda r: target(r).pop("averageUtilization"),
    ],
    policies.the_worker_scales_by_its_own_stream: [
        lambda r: trigger(r).update(stream="ballots"),
        lambda r: trigger(r).update(consumerGroup="worker"),
        lambda r: trigger(r).update(address="redis:6379"),
        lambda r: one(r, "Service", "redis")["metadata"].update(namespace="other"),
    ],
    policies.there_are_enough_pods: [
        lambda r: spec(r, "HorizontalPodAutoscaler", "vote").update(minReplicas=2),
        lambda r: r.remove(one(r, "ScaledObject", "worker")),
        lambda r: postgres(r).update(instances=1),
        lambda r: postgres(r)["postgresql"]["synchronous"].update(dataDurability="preferred"),
        lambda r: postgres(r)["postgresql"]["synchronous"].pop("failoverQuorum"),
        lambda r: postgres(r).pop("plugins"),
    ],
    policies.postgres_stops_without_waiting_for_sessions: [
        lambda r: postgres(r).pop("smartShutdownTimeout"),
    ],
    policies.voters_use_tls: [
        lambda r: listener(r, "vote").update(protocol="HTTP"),
        lambda r: listener(r, "result").pop("tls"),
        lambda r: rule(r, "redirect")["filters"][0]["requestRedirect"].update(scheme="http"),
        lambda r: spec(r, "HTTPRoute", "vote")["parentRefs"][0].update(sectionName="http"),
        lambda r: one(r, "ConfigMap", "voting")["data"].update(VOTE_URL="http://vote.example.com"),
    ],
    wiring.the_gateway_leads_only_to_pages: [
        *WITH_GATEWAY[wiring.the_gateway_leads_only_to_pages],
        lambda r: spec(r, "HTTPRoute", "redirect")["hostnames"].pop(),
    ],
}

POLICIES = {
    KIND: EVERYWHERE | WITH_INGRESS | WITH_ONE_REDIS | IN_KIND,
    GATEWAY: EVERYWHERE | WITH_GATEWAY | WITH_ONE_REDIS | IN_KIND | IN_KIND_WITH_GATEWAY,
    REPLICATED: EVERYWHERE | WITH_INGRESS | WITH_REPLICAS | IN_KIND,
    PRODUCTION: EVERYWHERE | WITH_GATEWAY | WITH_REPLICAS | IN_PRODUCTION,
}
HOLDS = [(overlay, policy) for overlay in OVERLAYS for policy in POLICIES[overlay]]
MISTAKES = [
    (overlay, policy, change) for overlay, policy in HOLDS for change in POLICIES[overlay][policy]
]


def name(value: object) -> str:
    return value if isinstance(value, str) else value.__name__.replace("_", " ")


@pytest.mark.parametrize(("overlay", "policy"), HOLDS, ids=name)
def test_the_policy_holds(overlay: str, policy: Policy):
    assert list(policy(render(overlay))) == []


@pytest.mark.parametrize(("overlay", "policy", "change"), MISTAKES, ids=name)
def test_the_policy_finds_the_mistake(overlay: str, policy: Policy, change: Change):
    resources = render(overlay)
    change(resources)
    assert list(policy(resources)), "the policy found nothing"


def production(folder: Path, *replaced: tuple[str, str]) -> list[Resource]:
    """Render the overlay for production after an edit of its kustomization."""
    overlay = Path(shutil.copytree(DEPLOY, folder / "deploy")) / PRODUCTION
    path = overlay / "kustomization.yaml"
    for old, new in replaced:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return kustomize(overlay)


@pytest.mark.parametrize("suffix", ["", "-tracing"])
@pytest.mark.parametrize("digest", ["", f"sha256:{'5' * 64}"])
def test_the_job_has_the_parts_of_the_tag_in_its_name(tmp_path: Path, suffix: str, digest: str):
    given = f"newTag: 10.21.32{suffix}" + (f"\n    digest: {digest}" if digest else "")
    resources = production(tmp_path, ('newTag: "0.1.0"', given))
    assert container(resources)["image"].endswith(f"/voting:10.21.32{suffix}@{digest}".rstrip("@"))
    assert one(resources, "Job", "migrate")["metadata"]["name"] == f"migrate-10-21-32{suffix}"
    assert list(pods.the_job_is_named_after_its_image(resources)) == []
    assert list(pods.images_have_tags(resources)) == []


def test_an_address_and_the_namespace_are_set_in_one_place(tmp_path: Path):
    changes = [("vote.example.com", "a.example.org"), ("result.example.com", "b.example.org/c")]
    resources = production(tmp_path, *changes, ("namespace: voting", "namespace: other"))
    hosts = [listener(resources, page)["hostname"] for page in ("vote", "result")]
    assert hosts == ["a.example.org", "b.example.org"]
    assert {each["metadata"].get("namespace", "other") for each in resources} == {"other"}
    for policy in (
        policies.voters_use_tls,
        policies.the_worker_scales_by_its_own_stream,
        wiring.the_gateway_leads_only_to_pages,
    ):
        assert list(policy(resources)) == []


def test_an_ingress_in_place_of_the_gateway_holds_the_same_policies(tmp_path: Path):
    changes = [("- gateway", "- ingress"), ("vote.example.com", "a.example.org")]
    resources = production(tmp_path, *changes)
    assert of(resources, "Gateway", "HTTPRoute") == []
    for policy in EVERYWHERE | WITH_INGRESS | WITH_REPLICAS | IN_PRODUCTION:
        assert list(policy(resources)) == []
    hosts = [rule["host"] for rule in spec(resources, "Ingress", "voting")["rules"]]
    assert hosts == ["a.example.org", "result.example.com"]
    spec(resources, "Ingress", "voting").pop("tls")
    assert list(policies.voters_use_tls(resources)) != []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_openshift_assigns_users_and_groups_and_nothing_else_differs(overlay: str):
    expected = render(overlay)
    for each in workloads(expected):
        for field in ("runAsUser", "runAsGroup", "fsGroup"):
            pod(each)["securityContext"].pop(field, None)
    assert render(overlay, component="components/openshift") == expected != render(overlay)


def test_every_policy_is_tested():
    defined = {
        each
        for module in (policies, pods, wiring)
        for each in vars(module).values()
        if getattr(each, "__module__", "") == module.__name__ and isgeneratorfunction(each)
    }
    assert defined == {policy for _, policy in HOLDS}
