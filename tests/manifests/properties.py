"""What no tool knows of the manifests: each property is a function that yields what breaks it."""

import re
from collections.abc import Iterator

from voting import server
from voting.ops import READY_SECONDS
from voting.settings import ResultSettings, Role, RoleSettings, VoteSettings, WorkerSettings
from voting.stream import GROUP, BallotStream, connect

from .network import NAMESPACE, actors, allowed
from .rendering import (
    Resource,
    containers,
    every_container,
    labels,
    matches,
    of,
    one,
    pod,
    title,
    workloads,
)

SETTINGS: dict[str, type[RoleSettings]] = {
    Role.VOTE: VoteSettings,
    Role.RESULT: ResultSettings,
    Role.WORKER: WorkerSettings,
}

# Said elsewhere than in the ConfigMap: by each Deployment, by the image's build, and, as the
# manifests name the ports, by the defaults.
FIXED = {"ROLE", "COMMIT", "HOST", "PORT", "OPS_PORT"}

# Speaks with the API server, which is what it is for.
WITH_TOKEN = {"Deployment traefik"}

APP_PAIRS = {
    "vote → redis 6379/TCP",
    "worker → redis 6379/TCP",
    "worker → postgres 5432/TCP",
    "result → postgres 5432/TCP",
    "migrate → postgres 5432/TCP",
    "traefik → vote 8080/TCP",
    "traefik → result 8080/TCP",
    *(
        f"{name} → dns 53/{protocol}"
        for name in ("vote", "result", "worker", "migrate", "redis", "postgres", "stranger")
        for protocol in ("UDP", "TCP")
    ),
}
OPERATOR_PAIRS = {
    "keda → redis 6379/TCP",
    "prometheus → vote 9090/TCP",
    "prometheus → result 9090/TCP",
    "prometheus → worker 9090/TCP",
    "cnpg → postgres 5432/TCP",
    "cnpg → postgres 8000/TCP",
    "postgres → postgres 5432/TCP",
    "postgres → postgres 8000/TCP",
    "postgres → anybody 443/TCP",
    "postgres → anybody 6443/TCP",
}


PROBES = {"httpGet", "tcpSocket"}


def secrets_of(model: type[RoleSettings]) -> set[str]:
    """Tell which of its variables are secret."""
    return {
        name.upper()
        for name, field in model.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }


def secret_variables(container: Resource) -> dict[str, tuple[str, str]]:
    """Tell which Secret and which key of it each variable comes from."""
    sources = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in container.get("env", [])
        if "valueFrom" in each
    }
    return {name: (source["name"], source["key"]) for name, source in sources.items()}


def every_container_says_what_it_needs(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        for bound in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in container.get("resources", {}).get(bound, {}):
                    yield f"{name} has no {bound} of {resource}"


def every_container_is_confined(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        context = container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{name} can write to its root file system"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain rights"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if context.get("privileged"):
            yield f"{name} is privileged"


def every_pod_is_nobody(resources: list[Resource]) -> Iterator[str]:
    for workload in workloads(resources):
        spec = pod(workload)
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) < 1:
            yield f"{title(workload)} may be root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(workload)} may use every system call"
        if spec.get("hostNetwork") or spec.get("hostPID") or spec.get("hostIPC"):
            yield f"{title(workload)} shares the node's namespaces"
        if spec.get("enableServiceLinks") is not False:
            yield f"{title(workload)} gets a variable for each Service"


def no_pod_has_a_token(resources: list[Resource]) -> Iterator[str]:
    accounts = {each["metadata"]["name"]: each for each in of(resources, "ServiceAccount")}
    for workload in workloads(resources):
        spec = pod(workload)
        name = spec.get("serviceAccountName")
        if name != workload["metadata"]["name"].partition("-")[0] or name not in accounts:
            yield f"{title(workload)} has no account of its own"
        elif accounts[name].get("automountServiceAccountToken") is not False:
            yield f"the account {name} gives its token to every pod"
        expected = title(workload) in WITH_TOKEN
        if spec.get("automountServiceAccountToken") is not expected:
            yield f"{title(workload)} {'needs' if expected else 'has'} a token"


def each_role_gets_the_secrets_that_it_reads(resources: list[Resource]) -> Iterator[str]:
    for workload in of(resources, "Deployment", "Job"):
        name = workload["metadata"]["name"].partition("-")[0]
        if name not in (*SETTINGS, "migrate"):
            continue
        if pod(workload).get("volumes"):
            yield f"{title(workload)} has volumes"
        for container in containers(workload):
            title_ = f"{title(workload)}/{container['name']}"
            # A container that waits, or migrates, asks the database alone.
            role = container["name"] in SETTINGS
            read = secrets_of(SETTINGS[name]) if role else {"DATABASE_URL"}
            given = secret_variables(container)
            if given.keys() != read:
                yield f"{title_} gets {sorted(given)} and reads {sorted(read)}"
            if any("secretRef" in each for each in container.get("envFrom", [])):
                yield f"{title_} gets a whole Secret"
            for variable, (secret, key) in given.items():
                if key != variable or not re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", secret):
                    yield f"{title_} reads {key} of {secret}"


def each_secret_that_is_read_is_there(resources: list[Resource]) -> Iterator[str]:
    present = {each["metadata"]["name"]: each.get("data", {}) for each in of(resources, "Secret")}
    for name, container in every_container(resources):
        for secret, key in secret_variables(container).values():
            if key not in present.get(secret, {}):
                yield f"{name}: there is no {key} in {secret}"
        whole = [
            each["secretRef"]["name"]
            for each in container.get("envFrom", [])
            if "secretRef" in each
        ]
        yield from (
            f"{name}: there is no Secret {secret}" for secret in whole if secret not in present
        )
    for workload in workloads(resources):
        volumes = pod(workload).get("volumes", [])
        files = [each["secret"]["secretName"] for each in volumes if "secret" in each]
        yield from (
            f"{title(workload)}: there is no {each}" for each in files if each not in present
        )


def no_secret_is_here(resources: list[Resource]) -> Iterator[str]:
    yield from map(title, of(resources, "Secret"))


def selectors_select(resources: list[Resource]) -> Iterator[str]:
    pods = [labels(each) for each in workloads(resources)]
    pods += [{"cnpg.io/cluster": each["metadata"]["name"]} for each in of(resources, "Cluster")]
    paths = {
        "Service": lambda spec: {"matchLabels": spec["selector"]},
        "PodDisruptionBudget": lambda spec: spec["selector"],
        "NetworkPolicy": lambda spec: spec["podSelector"],
    }
    for each in of(resources, *paths):
        selector = paths[each["kind"]](each["spec"])
        if not any(matches(selector, given) for given in pods):
            yield f"{title(each)} selects nothing with {selector}"
    for each in of(resources, "Deployment", "StatefulSet"):
        spreads = pod(each).get("topologySpreadConstraints", [])
        for selector in (
            each["spec"]["selector"],
            *(spread["labelSelector"] for spread in spreads),
        ):
            if not matches(selector, labels(each)):
                yield f"{title(each)} does not select its own pods with {selector}"


def everything_is_watched_and_scaled_that_should_be(resources: list[Resource]) -> Iterator[str]:
    services = [each["metadata"].get("labels", {}) for each in of(resources, "Service")]
    for each in of(resources, "ServiceMonitor"):
        if not any(matches(each["spec"]["selector"], given) for given in services):
            yield f"{title(each)} selects no Service"
    deployments = {each["metadata"]["name"] for each in of(resources, "Deployment")}
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in of(resources, "HorizontalPodAutoscaler", "ScaledObject")
    }
    yield from (f"{name} is scaled and not there" for name in scaled - deployments)
    yield from (f"{name} is there and not scaled" for name in deployments - scaled)


def every_setting_is_in_the_configmap(resources: list[Resource]) -> Iterator[str]:
    read = {name.upper() for model in SETTINGS.values() for name in model.model_fields} - {
        name for model in SETTINGS.values() for name in secrets_of(model)
    }
    given = set(one(resources, "ConfigMap", "voting")["data"])
    yield from (f"{name} is read, and not given" for name in read - given - FIXED)
    yield from (f"{name} is given, and not read" for name in given - read)
    for role in SETTINGS:
        [container] = pod(one(resources, "Deployment", role))["containers"]
        if {"name": "ROLE", "value": role} not in container["env"]:
            yield f"{role} has another role"
        names = [each["configMapRef"]["name"] for each in container["envFrom"]]
        if names != [one(resources, "ConfigMap", "voting")["metadata"]["name"]]:
            yield f"{role} does not read the settings"


def containers_listen_where_they_are_asked(resources: list[Resource]) -> Iterator[str]:
    defaults = {"http": RoleSettings().port, "ops": RoleSettings().ops_port}
    for name, container in every_container(resources):
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        for port in defaults.keys() & ports.keys():
            if ports[port] != defaults[port]:
                yield f"{name} listens on another {port} than {ports[port]}"
        probes = [
            container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")
        ]
        asked = [probe[how]["port"] for probe in probes for how in probe if how in PROBES]
        yield from (f"{name} is probed on {port}" for port in asked if port not in ports)


def services_lead_to_ports(resources: list[Resource]) -> Iterator[str]:
    for service in of(resources, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        for workload in of(resources, "Deployment", "StatefulSet"):
            names = {
                port["name"] for each in containers(workload) for port in each.get("ports", [])
            }
            for port in service["spec"]["ports"]:
                if matches(selector, labels(workload)) and port["targetPort"] not in names:
                    yield f"{title(service)} leads to no {port['targetPort']}"
        if service["spec"].get("type") == "NodePort" and title(service) != "Service traefik":
            yield f"{title(service)} is open to the outside"


def the_ingress_leads_to_pages_only(resources: list[Resource]) -> Iterator[str]:
    for ingress in of(resources, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            [path] = rule["http"]["paths"]
            backend = path["backend"]["service"]
            [port] = one(resources, "Service", backend["name"])["spec"]["ports"]
            if port["name"] != backend["port"].get("name") or port["targetPort"] != "http":
                yield f"{rule['host']} leads to {backend}"
            if backend["name"] != rule["host"].partition(".")[0]:
                yield f"{rule['host']} leads to {backend['name']}"


def probes_ask_what_they_should(resources: list[Resource]) -> Iterator[str]:
    for role in SETTINGS:
        [container] = pod(one(resources, "Deployment", role))["containers"]
        for kind, path in (
            ("startup", "/healthz"),
            ("liveness", "/healthz"),
            ("readiness", "/readyz"),
        ):
            if container.get(f"{kind}Probe", {}).get("httpGet") != {"path": path, "port": "ops"}:
                yield f"{role}: {kind} does not ask {path}"
        if container.get("readinessProbe", {}).get("timeoutSeconds", 1) <= READY_SECONDS + 0.5:
            yield f"{role}: readiness is given up before the role is"


def a_rollout_refuses_nobody(resources: list[Resource]) -> Iterator[str]:
    for role in SETTINGS:
        deployment = one(resources, "Deployment", role)
        if deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
            yield f"{role}: a pod goes before the next one is there"
        [container] = pod(deployment)["containers"]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if role != Role.WORKER and sleep < 5:
            yield f"{role}: it goes before the proxies know"
        if pod(deployment)["terminationGracePeriodSeconds"] < sleep + server.DRAIN + 1:
            yield f"{role}: it is killed before it has drained"
        budget = one(resources, "PodDisruptionBudget", role)["spec"]
        if budget["maxUnavailable"] != 1:
            yield f"{role}: a drain may take more than one pod"


def roles_wait_for_the_schema(resources: list[Resource]) -> Iterator[str]:
    for role in SETTINGS:
        spec = pod(one(resources, "Deployment", role))
        waits = [each["args"] for each in spec.get("initContainers", [])]
        expected = [["wait"]] if role != Role.VOTE else []
        if waits != expected:
            yield f"{role}: waits {waits}"
        if any(
            each["image"] != spec["containers"][0]["image"]
            for each in spec.get("initContainers", [])
        ):
            yield f"{role}: waits for the schema of another version"


def the_job_is_named_after_its_image(resources: list[Resource]) -> Iterator[str]:
    [job] = of(resources, "Job")
    images = {
        each["image"] for name, each in every_container(resources) if "voting" in each["image"]
    }
    tags = {image.partition(":")[2] for image in images}
    if tags != {job["metadata"]["name"].removeprefix("migrate-")} or len(images) != 1:
        yield f"{title(job)} migrates for {sorted(images)}"
    spec = pod(job)
    references = [str(each) for each in spec["containers"][0].get("envFrom", [])]
    references += [
        each["valueFrom"]["secretKeyRef"]["name"] for each in spec["containers"][0]["env"]
    ]
    if references != ["migrate"]:
        yield f"{title(job)} can't be applied again when {references} change"
    if job["spec"].get("ttlSecondsAfterFinished") is None or spec["restartPolicy"] != "Never":
        yield f"{title(job)} stays for ever"


def images_are_named_by_tag(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"} or container["imagePullPolicy"] != "IfNotPresent":
            yield f"{name} runs {container['image']}, pulled {container['imagePullPolicy']}"


def autoscalers_rule_alone(resources: list[Resource]) -> Iterator[str]:
    for each in of(resources, "HorizontalPodAutoscaler", "ScaledObject"):
        target = one(resources, "Deployment", each["spec"]["scaleTargetRef"]["name"])
        if "replicas" in target["spec"]:
            yield f"{title(each)} and the Deployment both say how many"
        least = each["spec"].get("minReplicas", each["spec"].get("minReplicaCount"))
        if not 1 <= least < each["spec"].get("maxReplicas", each["spec"].get("maxReplicaCount")):
            yield f"{title(each)} can't scale"


def the_worker_is_scaled_by_the_stream_that_it_reads(resources: list[Resource]) -> Iterator[str]:
    stream = BallotStream(connect("redis://nobody"))
    [trigger] = one(resources, "ScaledObject", "worker")["spec"]["triggers"]
    if trigger["metadata"]["stream"] != stream._stream:
        yield f"the stream is {stream._stream}"
    if trigger["metadata"]["consumerGroup"] != GROUP:
        yield f"the group is {GROUP}"


def redis_syncs_before_it_answers(resources: list[Resource]) -> Iterator[str]:
    text = one(resources, "ConfigMap", "redis")["data"]["valkey.conf"]
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    settings = {line[0]: line[1] for line in lines}
    wanted = {
        "dir": "/data",
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    yield from (f"{key} is not {wanted[key]}" for key in wanted if settings.get(key) != wanted[key])
    stateful = one(resources, "StatefulSet", "redis")
    [container] = pod(stateful)["containers"]
    if size(container["resources"]["limits"]["memory"]) < 2 * size(settings["maxmemory"]):
        yield "there is no memory for rewriting the log"


def data_is_on_volumes_that_stay(resources: list[Resource]) -> Iterator[str]:
    paths = {"redis": "/data", "postgres": "/var/lib/postgresql"}
    claims = {each["metadata"]["name"] for each in of(resources, "PersistentVolumeClaim")}
    for stateful in of(resources, "StatefulSet"):
        name = stateful["metadata"]["name"]
        mounts = {
            each["name"]: each["mountPath"] for each in containers(stateful)[0]["volumeMounts"]
        }
        on_claims = {
            each["persistentVolumeClaim"]["claimName"]: mounts.get(each["name"])
            for each in pod(stateful)["volumes"]
            if "persistentVolumeClaim" in each
        }
        if on_claims != {name: paths[name]} or name not in claims:
            yield f"{name} keeps its data elsewhere than on its volume"
        if stateful["spec"]["replicas"] != 1:
            yield f"{name} is more than one"


def namespaces_are_restricted(resources: list[Resource]) -> Iterator[str]:
    there = {each["metadata"]["name"]: each["metadata"] for each in of(resources, "Namespace")}
    for name in {each["metadata"].get("namespace") for each in workloads(resources)}:
        labels = there[name].get("labels", {}) if name in there else {}
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"the namespace {name} takes any pod"


def only_the_listed_pairs_may_speak(resources: list[Resource]) -> Iterator[str]:
    expected = APP_PAIRS | (OPERATOR_PAIRS if of(resources, "Cluster") else set())
    ours = {each.name for each in actors(resources) if each.namespace == NAMESPACE}
    for way, end in (("Egress", 0), ("Ingress", 1)):
        found = allowed(resources, way)
        listed = {pair for pair in expected if pair.rpartition(" ")[0].split(" → ")[end] in ours}
        yield from (f"{way} allows {pair}" for pair in sorted(found - listed))
        yield from (f"{way} does not allow {pair}" for pair in sorted(listed - found))


def there_are_enough_pods(resources: list[Resource]) -> Iterator[str]:
    least = {
        each["metadata"]["name"]: each["spec"].get(
            "minReplicas", each["spec"].get("minReplicaCount")
        )
        for each in of(resources, "HorizontalPodAutoscaler", "ScaledObject")
    }
    for name, number in (("vote", 3), ("result", 2), ("worker", 2)):
        if least.get(name, 0) < number:
            yield f"{name}: {least.get(name)}"
    [cluster] = of(resources, "Cluster")
    synchronous = {"method": "any", "number": 1, "dataDurability": "required"}
    if (
        cluster["spec"]["instances"] < 3
        or cluster["spec"]["postgresql"]["synchronous"] != synchronous
    ):
        yield "a counted vote may be on one disk only"


def voters_come_over_tls(resources: list[Resource]) -> Iterator[str]:
    data = one(resources, "ConfigMap", "voting")["data"]
    for ingress in of(resources, "Ingress"):
        covered = {host for each in ingress["spec"].get("tls", []) for host in each["hosts"]}
        for rule in ingress["spec"]["rules"]:
            if rule["host"] not in covered:
                yield f"{rule['host']} has no certificate"
        addresses = {data["VOTE_URL"], data["RESULT_URL"]}
        if {f"https://{rule['host']}" for rule in ingress["spec"]["rules"]} != addresses:
            yield "the pages link elsewhere"


def size(text: str) -> int:
    """Read a number of bytes, as Kubernetes (Mi) or Redis (mb) writes it."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", text).groups()
    return int(number) * {"": 1, "mb": 2**20, "gb": 2**30, "Mi": 2**20, "Gi": 2**30}[unit]
