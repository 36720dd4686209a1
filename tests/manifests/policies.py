"""Policies on data, scaling and production. A policy is a generator of violations."""

import re
from collections.abc import Iterator

from voting.queue.client import GROUP, Queue, connect
from voting.queue.sentinel import LEASE, MARGIN_MS
from voting.settings import Role

from .rendering import Resource, labels, matches, of, one, pod, title, workloads
from .wiring import POD_NAME

# Kinds with the ends of the names of their limits.
AUTOSCALERS = {"HorizontalPodAutoscaler": "Replicas", "ScaledObject": "ReplicaCount"}

PATHS_OF_SCRIPT = {"data": "/data", "config": "/etc/valkey", "users": "/etc/valkey-users"}
REDIS_PORTS = {6379: "redis", 26379: "sentinel"}

# Seconds that a stopping primary waits for its replicas: Valkey's `shutdown-timeout`.
SHUTDOWN_TIMEOUT = 10

# Seconds between two pings of a Sentinel, and between two looks at the offsets of replicas while a
# primary is down.
SENTINEL_PERIOD = 1

SENTINEL_SETTINGS = (
    "sentinel resolve-hostnames yes",
    "sentinel announce-hostnames yes",
    "sentinel failover-timeout voting 2000",
    "sentinel parallel-syncs voting 1",
)


def size(text: str) -> int:
    """Parse a number of bytes, as Kubernetes (Mi), Redis (mb) or Postgres (MB) writes it."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", text.lower()).groups()
    return int(number) * {"": 1, "mb": 2**20, "gb": 2**30, "mi": 2**20, "gi": 2**30}[unit]


def autoscalers(resources: list[Resource]) -> dict[str, tuple[int, int]]:
    """Return the least and the highest number of pods of each scaled Deployment."""
    return {
        spec["scaleTargetRef"]["name"]: (spec[f"min{suffix}"], spec[f"max{suffix}"])
        for kind, suffix in AUTOSCALERS.items()
        for spec in (each["spec"] for each in of(resources, kind))
    }


def read_conf(resources: list[Resource], name: str) -> dict[str, str]:
    text = one(resources, "ConfigMap", "redis")["data"][name]
    return dict(re.findall(r"^([a-z-]+) (\S+)", text, re.MULTILINE))


def redis_syncs_before_it_replies(resources: list[Resource]) -> Iterator[str]:
    settings = read_conf(resources, "valkey.conf")
    wanted = {"dir": "/data", "appendonly": "yes", "appendfsync": "always"}
    wanted |= {"maxmemory-policy": "noeviction"}
    yield from (f"{name} is not {value}" for name, value in wanted.items() - settings.items())
    [container] = pod(one(resources, "StatefulSet", "redis"))["containers"]
    if size(container["resources"]["limits"]["memory"]) < 2 * size(settings["maxmemory"]):
        yield "Redis has too little memory to rewrite its log"


def postgres_buffers_a_quarter_of_its_memory(resources: list[Resource]) -> Iterator[str]:
    found = [
        (each["spec"]["postgresql"]["parameters"], each["spec"]["resources"])
        for each in of(resources, "Cluster")
    ]
    for each in of(resources, "StatefulSet"):
        [container] = pod(each)["containers"]
        given = [argument.split("=") for argument in container.get("args", []) if "=" in argument]
        found += [(dict(given), container["resources"])] if given else []
    for settings, memory in found:
        if 4 * size(settings["shared_buffers"]) != size(memory["limits"]["memory"]):
            yield f"Postgres buffers {settings['shared_buffers']} of {memory['limits']['memory']}"


def data_is_on_persistent_volumes(resources: list[Resource]) -> Iterator[str]:
    paths = {"redis": "/data", "postgres": "/var/lib/postgresql"}
    claims = {each["metadata"]["name"] for each in of(resources, "PersistentVolumeClaim")}
    for stateful in of(resources, "StatefulSet"):
        name = stateful["metadata"]["name"]
        [container] = pod(stateful)["containers"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        on_claims = {
            each["persistentVolumeClaim"]["claimName"]: mounts.get(each["name"])
            for each in pod(stateful)["volumes"]
            if "persistentVolumeClaim" in each
        }
        templates = stateful["spec"].get("volumeClaimTemplates", [])
        # A pod's claim is named after the template and the pod.
        for each in templates:
            on_claims[name] = mounts.get(each["metadata"]["name"])
        if on_claims != {name: paths[name]} or (name in claims) is bool(templates):
            yield f"{name} does not keep its data on its volume"
        if stateful["spec"]["replicas"] != 1 and not templates:
            yield f"the pods of {name} share a volume"


def a_vote_is_on_two_disks(resources: list[Resource]) -> Iterator[str]:
    if one(resources, "ConfigMap", "voting")["data"]["REDIS_REPLICAS"] != "1":
        yield "roles acknowledge what no replica has"
    settings = read_conf(resources, "replicated.conf")
    wanted = {"min-replicas-to-write": "1", "min-replicas-max-lag": "3"}
    yield from (f"{name} is not {value}" for name, value in wanted.items() - settings.items())


def redis_has_three_servers_and_sentinels(resources: list[Resource]) -> Iterator[str]:
    stateful = one(resources, "StatefulSet", "redis")
    # One after the other, the first would wait for the Sentinels of the others forever.
    if (stateful["spec"]["replicas"], stateful["spec"]["podManagementPolicy"]) != (3, "Parallel"):
        yield "not all three start at once"
    [server], [sentinel] = pod(stateful)["containers"], pod(stateful).get("initContainers", [{}])
    if sentinel.get("restartPolicy") != "Always" or "startupProbe" not in sentinel:
        yield "a server starts before its Sentinel"
    for name, container in (("server", server), ("sentinel", sentinel)):
        if container.get("command") != ["sh", "/etc/valkey/redis.sh", name]:
            yield f"{name} is not started by the script"
        if container.get("image") != server["image"]:
            yield f"{name} has another version"
        mounts = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", [])}
        if not mounts.items() >= PATHS_OF_SCRIPT.items():
            yield f"{name} does not find its files"


def redis_is_on_three_nodes(resources: list[Resource]) -> Iterator[str]:
    stateful = one(resources, "StatefulSet", "redis")
    affinity = pod(stateful).get("affinity", {}).get("podAntiAffinity", {})
    for each in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", []):
        if each["topologyKey"] == "kubernetes.io/hostname" and matches(
            each["labelSelector"], labels(stateful)
        ):
            return
    yield "a machine may take two of three with it"


def each_pod_of_redis_has_a_stable_name(resources: list[Resource]) -> Iterator[str]:
    for number in range(3):
        name = f"redis-{number}"
        spec = one(resources, "Service", name)["spec"]
        if spec["selector"] != {POD_NAME: name} or not spec.get("publishNotReadyAddresses"):
            yield f"{name} does not lead to the pod, whatever its state"
        if spec.get("clusterIP") == "None":
            yield f"{name} can't be resolved when the pod is gone"
        if {each["port"]: each["targetPort"] for each in spec["ports"]} != REDIS_PORTS:
            yield f"{name} does not lead to server and Sentinel"


def redis_hands_over_before_it_stops(resources: list[Resource]) -> Iterator[str]:
    spec = pod(one(resources, "StatefulSet", "redis"))
    [server] = spec["containers"]
    script = ["sh", "/etc/valkey/redis.sh"]
    for name, hook, command in (
        ("preStop", server.get("lifecycle", {}).get("preStop", {}), "hand-over"),
        ("readiness", server["readinessProbe"], "ready"),
    ):
        if hook.get("exec", {}).get("command") != [*script, command]:
            yield f"{name} does not {command}"
    text = one(resources, "ConfigMap", "redis")["data"]["redis.sh"]
    hand_over = int(re.search(r"^HAND_OVER=(\d+)$", text, re.MULTILINE)[1])
    if spec["terminationGracePeriodSeconds"] < hand_over + SHUTDOWN_TIMEOUT + 10:
        yield "Kubernetes kills a server before it has handed over"
    if one(resources, "PodDisruptionBudget", "redis")["spec"]["maxUnavailable"] != 1:
        yield "a drain may evict two servers"


def sentinels_agree_with_the_lease(resources: list[Resource]) -> Iterator[str]:
    settings = one(resources, "ConfigMap", "redis")["data"]["sentinel.conf"]
    for line in SENTINEL_SETTINGS:
        if line not in settings.splitlines():
            yield f"there is no {line}"
    text = one(resources, "ConfigMap", "redis")["data"]["redis.sh"]
    [least] = re.findall(r"down-after-milliseconds voting \$\(\((\d+) \+ ", text)
    if int(least) <= MARGIN_MS + 1000 * (LEASE + SENTINEL_PERIOD):
        yield "a Sentinel replaces a primary that clients still trust"


def namespaces_are_restricted(resources: list[Resource]) -> Iterator[str]:
    there = {each["metadata"]["name"]: each["metadata"] for each in of(resources, "Namespace")}
    for name in {each["metadata"].get("namespace") for each in workloads(resources)}:
        labels = there[name].get("labels", {}) if name in there else {}
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"the namespace {name} does not enforce the restricted standard"


def only_autoscalers_set_replicas(resources: list[Resource]) -> Iterator[str]:
    for name, (least, most) in autoscalers(resources).items():
        if "replicas" in one(resources, "Deployment", name)["spec"]:
            yield f"the autoscaler of {name} and the Deployment both set replicas"
        if not 1 <= least < most:
            yield f"the autoscaler of {name} can't scale"


def pods_are_added_before_they_need_more_than_they_request(
    resources: list[Resource],
) -> Iterator[str]:
    """On a node without spare cores a container gets what it requests, and no more."""
    for autoscaler in of(resources, "HorizontalPodAutoscaler"):
        for metric in autoscaler["spec"]["metrics"]:
            target = metric["containerResource"]["target"]
            if target.get("averageUtilization", 100) >= 100:
                yield f"{autoscaler['metadata']['name']} may never reach {target}"


def the_worker_scales_by_its_own_stream(resources: list[Resource]) -> Iterator[str]:
    stream = Queue(connect("redis://redis")).stream_key
    [trigger] = one(resources, "ScaledObject", "worker")["spec"]["triggers"]
    if trigger["metadata"]["stream"] != stream:
        yield f"the stream is {stream}"
    if trigger["metadata"]["consumerGroup"] != GROUP:
        yield f"the group is {GROUP}"
    service = one(resources, "Service", "redis")
    address = f"redis.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    if trigger["metadata"]["address"] != address:
        yield f"the address, from every namespace, is {address}"


def monitors_and_autoscalers_match_resources(resources: list[Resource]) -> Iterator[str]:
    services = [each["metadata"].get("labels", {}) for each in of(resources, "Service")]
    for each in of(resources, "ServiceMonitor"):
        if not any(matches(each["spec"]["selector"], given) for given in services):
            yield f"{title(each)} selects no Service"
    deployments = {each["metadata"]["name"] for each in of(resources, "Deployment")}
    scaled = autoscalers(resources).keys()
    yield from (f"the autoscaler of {name} has no Deployment" for name in scaled - deployments)
    yield from (f"{name} has no autoscaler" for name in deployments - scaled - {Role.ADMIN})


def there_are_enough_pods(resources: list[Resource]) -> Iterator[str]:
    scaled = autoscalers(resources)
    for name, number in (("vote", 3), ("result", 2), ("worker", 2)):
        least, _ = scaled.get(name, (0, 0))
        if least < number:
            yield f"{name} has only {least} pods"
    [cluster] = of(resources, "Cluster")
    spec = cluster["spec"]
    synchronous = {"method": "any", "number": 1, "dataDurability": "required"}
    synchronous |= {"failoverQuorum": True}
    if spec["instances"] < 3 or spec["postgresql"]["synchronous"] != synchronous:
        yield "Postgres may store a counted vote on one disk only"
    archives = [each["name"] for each in spec.get("plugins", []) if each["isWALArchiver"]]
    if archives != ["barman-cloud.cloudnative-pg.io"]:
        yield "Postgres does not archive its log"


def postgres_stops_without_waiting_for_sessions(resources: list[Resource]) -> Iterator[str]:
    for cluster in of(resources, "Cluster"):
        if cluster["spec"].get("smartShutdownTimeout") != 0:
            yield f"{title(cluster)} waits for its sessions"


def voters_use_tls(resources: list[Resource]) -> Iterator[str]:
    data = one(resources, "ConfigMap", "voting")["data"]
    for ingress in of(resources, "Ingress"):
        covered = {host for each in ingress["spec"].get("tls", []) for host in each["hosts"]}
        hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
        yield from (f"{host} has no certificate" for host in hosts - covered)
    certificates = {
        each["name"]: each.get("tls", {}).get("certificateRefs")
        for gateway in of(resources, "Gateway")
        for each in gateway["spec"]["listeners"]
        if each["protocol"] == "HTTPS"
    }
    for route in of(resources, "HTTPRoute"):
        [parent], [rule] = route["spec"]["parentRefs"], route["spec"]["rules"]
        schemes = [
            each.get("requestRedirect", {}).get("scheme") for each in rule.get("filters", [])
        ]
        if not certificates.get(parent["sectionName"]) and schemes != ["https"]:
            yield f"{title(route)} has no certificate"
    for name in ("VOTE_URL", "RESULT_URL"):
        if not data[name].startswith("https://"):
            yield f"{name} has no TLS"


def no_secret_is_rendered(resources: list[Resource]) -> Iterator[str]:
    yield from map(title, of(resources, "Secret"))
