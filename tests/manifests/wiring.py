"""Policies on references between resources: Secrets, settings, ports and networks."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from voting.settings import ROLE_SETTINGS, QuestionSettings, Role, RoleSettings, Settings

from .network import NAMESPACE, all_pods, allowed
from .rendering import (
    Resource,
    containers,
    every_container,
    is_named,
    labels,
    matches,
    of,
    one,
    pod,
    title,
    workloads,
)

# The variables of the first question. Those of a third option and more need not be given.
QUESTION = {name.upper() for name in QuestionSettings.model_fields.keys() - Settings.model_fields}
REQUIRED = {"POLL_TITLE", "OPTION_A", "OPTION_B"}

# The ConfigMaps of each workload, without their hashes.
CONFIG_MAPS = {
    ("Deployment", "vote"): ["voting"],
    ("Deployment", "result"): ["voting"],
    ("Deployment", "worker"): ["voting", "question"],
    ("Deployment", "admin"): ["voting"],
    ("Job", "migrate"): ["migrate"],
}

# Settings that are not in a ConfigMap: the Deployments or the image's build set them, their
# defaults match the ports in the manifests, an operator with a trace collector adds them, or only
# tests set them (the worker's times).
FIXED = {
    *("ROLE", "COMMIT", "HOST", "PORT", "OPS_PORT"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    *("CLAIM_MIN_IDLE", "MAINTENANCE_INTERVAL"),
}

POD_NAME = "statefulset.kubernetes.io/pod-name"

APP_PAIRS = {
    "vote → redis 6379/TCP",
    "worker → redis 6379/TCP",
    "worker → postgres 5432/TCP",
    "admin → redis 6379/TCP",
    "admin → postgres 5432/TCP",
    "result → postgres 5432/TCP",
    "migrate → postgres 5432/TCP",
    "traefik → vote 8080/TCP",
    "traefik → result 8080/TCP",
    *(
        f"{name} → dns 53/{protocol}"
        for name in (*ROLE_SETTINGS, "migrate", "redis", "postgres", "other pod")
        for protocol in ("UDP", "TCP")
    ),
}

REPLICA_PAIRS = {
    "vote → redis 26379/TCP",
    "worker → redis 26379/TCP",
    "admin → redis 26379/TCP",
    "redis → redis 6379/TCP",
    "redis → redis 26379/TCP",
}

# Pods of the components load and load-check, and where each may connect to.
LOADS = {"load", "check"}
LOAD_ENDS = {"vote 8080/TCP", "result 8080/TCP", "dns 53/UDP", "dns 53/TCP"}

OPERATOR_PAIRS = {
    "keda → redis 6379/TCP",
    "prometheus → vote 9090/TCP",
    "prometheus → result 9090/TCP",
    "prometheus → worker 9090/TCP",
    "prometheus → admin 9090/TCP",
    "cnpg → postgres 5432/TCP",
    "cnpg → postgres 8000/TCP",
    "postgres → postgres 5432/TCP",
    "postgres → postgres 8000/TCP",
    "postgres → any 443/TCP",
    "postgres → any 6443/TCP",
}

# With these a client would decide which of its requests are traced, in which trace.
TRACE_HEADERS = {"traceparent", "tracestate", "baggage"}

# The admin page listens on loopback only: those who may forward a port to it need no token.
NO_TOKEN = {"name": "ADMIN_TOKEN", "value": "none"}


def secrets_of(model: type[RoleSettings]) -> set[str]:
    """Return the names of the secret variables."""
    return {
        name.upper()
        for name, field in model.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }


def secret_variables(container: Resource) -> dict[str, tuple[str, str]]:
    """Return the Secret and the key of each variable."""
    return {
        each["name"]: (source["name"], source["key"])
        for each in container.get("env", [])
        if (source := each.get("valueFrom", {}).get("secretKeyRef"))
    }


def each_role_gets_exactly_the_secrets_it_reads(resources: list[Resource]) -> Iterator[str]:
    for workload in of(resources, "Deployment", "Job"):
        name = workload["metadata"]["name"].partition("-")[0]
        if name not in (*ROLE_SETTINGS, "migrate"):
            continue
        if pod(workload).get("volumes"):
            yield f"{title(workload)} has volumes"
        for container in containers(workload):
            container_name = f"{title(workload)}/{container['name']}"
            # Containers that wait or migrate use only the database.
            role = container["name"] in ROLE_SETTINGS
            read = secrets_of(ROLE_SETTINGS[name]) if role else {"DATABASE_URL"}
            if "ADMIN_TOKEN" in read and NO_TOKEN not in container["env"]:
                yield f"{container_name} wants a token"
            read -= {"ADMIN_TOKEN"}
            given = secret_variables(container)
            if given.keys() != read:
                yield f"{container_name} gets {sorted(given)} and reads {sorted(read)}"
            if any("secretRef" in each for each in container.get("envFrom", [])):
                yield f"{container_name} gets a whole Secret"
            for variable, (secret, key) in given.items():
                if key != variable or not is_named(secret, name):
                    yield f"{container_name} reads {key} of {secret}"


def each_secret_that_is_read_exists(resources: list[Resource]) -> Iterator[str]:
    present = {each["metadata"]["name"]: each.get("data", {}) for each in of(resources, "Secret")}
    whole = []
    for name, container in every_container(resources):
        for secret, key in secret_variables(container).values():
            if key not in present.get(secret, {}):
                yield f"{name}: {secret} has no {key}"
        sources = container.get("envFrom", [])
        whole += [each["secretRef"]["name"] for each in sources if "secretRef" in each]
    for workload in workloads(resources):
        volumes = pod(workload).get("volumes", [])
        whole += [each["secret"]["secretName"] for each in volumes if "secret" in each]
    yield from (f"there is no Secret {name}" for name in whole if name not in present)


def every_setting_is_in_the_configmaps_of_its_readers(resources: list[Resource]) -> Iterator[str]:
    models = ROLE_SETTINGS.values()
    read = {name.upper() for model in models for name in model.model_fields}
    read -= set().union(*map(secrets_of, models), QUESTION)
    for name, required, known in (
        ("voting", read - FIXED, read),
        ("question", REQUIRED, QUESTION),
        ("migrate", REQUIRED, QUESTION),
    ):
        given = set(one(resources, "ConfigMap", name)["data"])
        yield from (f"the ConfigMap {name} lacks {each}" for each in required - given)
        yield from (f"no reader of {name} knows {each}" for each in given - known)
    questions = [one(resources, "ConfigMap", name)["data"] for name in ("question", "migrate")]
    if questions[0] != questions[1]:
        yield "the migration has another question than the workers"
    for (kind, name), wanted in CONFIG_MAPS.items():
        workload = one(resources, kind, name)
        [container] = pod(workload)["containers"]
        names = [each["configMapRef"]["name"] for each in container["envFrom"]]
        if names != [one(resources, "ConfigMap", each)["metadata"]["name"] for each in wanted]:
            yield f"{title(workload)} reads {names}"
    for role in ROLE_SETTINGS:
        [container] = pod(one(resources, "Deployment", role))["containers"]
        if {"name": "ROLE", "value": role} not in container["env"]:
            yield f"{role} has another role"


def selectors_match_pods(resources: list[Resource]) -> Iterator[str]:
    pods = [labels(each) for each in workloads(resources)]
    # Kubernetes labels each pod of a StatefulSet with its name.
    pods += [
        labels(each) | {POD_NAME: f"{each['metadata']['name']}-{number}"}
        for each in of(resources, "StatefulSet")
        for number in range(each["spec"]["replicas"])
    ]
    pods += [{"cnpg.io/cluster": each["metadata"]["name"]} for each in of(resources, "Cluster")]
    paths = {
        "Service": lambda spec: {"matchLabels": spec["selector"]},
        "PodDisruptionBudget": lambda spec: spec["selector"],
        "NetworkPolicy": lambda spec: spec["podSelector"],
    }
    for each in of(resources, *paths):
        selector = paths[each["kind"]](each["spec"])
        if not any(matches(selector, given) for given in pods):
            yield f"{title(each)} selects no pod with {selector}"
    for each in of(resources, "Deployment", "StatefulSet"):
        spreads = pod(each).get("topologySpreadConstraints", [])
        for selector in [
            each["spec"]["selector"],
            *(spread["labelSelector"] for spread in spreads),
        ]:
            if not matches(selector, labels(each)):
                yield f"{title(each)} does not select its own pods with {selector}"


def services_target_container_ports(resources: list[Resource]) -> Iterator[str]:
    for service in of(resources, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        for workload in of(resources, "Deployment", "StatefulSet"):
            names = {
                port["name"] for each in containers(workload) for port in each.get("ports", [])
            }
            name = selector["matchLabels"].get(POD_NAME, "").rpartition("-")[0]
            selected = name == workload["metadata"]["name"] or matches(selector, labels(workload))
            for port in service["spec"]["ports"]:
                if selected and port["targetPort"] not in names:
                    yield f"{title(service)} leads to no {port['targetPort']}"
        if service["spec"].get("type") == "NodePort" and title(service) != "Service traefik":
            yield f"{title(service)} opens a port of each node"


def no_service_leads_to_the_admin_page(resources: list[Resource]) -> Iterator[str]:
    admin = one(resources, "Deployment", Role.ADMIN)
    for service in of(resources, "Service"):
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        if matches({"matchLabels": service["spec"]["selector"]}, labels(admin)) and ports != {
            "ops"
        }:
            yield f"{title(service)} leads to {title(admin)}"


def the_ingress_leads_only_to_pages(resources: list[Resource]) -> Iterator[str]:
    settings = one(resources, "ConfigMap", "voting")["data"]
    for ingress in of(resources, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            [path] = rule["http"]["paths"]
            backend = path["backend"]["service"]
            [port] = one(resources, "Service", backend["name"])["spec"]["ports"]
            if port["name"] != backend["port"].get("name") or port["targetPort"] != "http":
                yield f"{rule['host']} leads to {backend}"
            address = settings[f"{backend['name'].upper()}_URL"]
            if urlsplit(address).hostname != rule["host"]:
                yield f"{rule['host']} leads to {backend['name']}, whose address is {address}"


def every_page_has_a_way_in(resources: list[Resource]) -> Iterator[str]:
    backends = {
        path["backend"]["service"]["name"]
        for ingress in of(resources, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    backends |= {
        backend["name"] for route in of(resources, "HTTPRoute") for backend in _backends(route)
    }
    yield from (f"nothing leads to {page}" for page in {"vote", "result"} - backends)


def _backends(route: Resource) -> list[Resource]:
    [rule] = route["spec"]["rules"]
    return rule.get("backendRefs", [])


def the_gateway_leads_only_to_pages(resources: list[Resource]) -> Iterator[str]:
    settings = one(resources, "ConfigMap", "voting")["data"]
    hosts = {
        page: urlsplit(settings[f"{page.upper()}_URL"]).hostname for page in ("vote", "result")
    }
    listeners = {
        (gateway["metadata"]["name"], each["name"]): each
        for gateway in of(resources, "Gateway")
        for each in gateway["spec"]["listeners"]
    }
    for route in of(resources, "HTTPRoute"):
        [parent] = route["spec"]["parentRefs"]
        listener = listeners.get((parent["name"], parent["sectionName"]), {})
        names = route["spec"]["hostnames"]
        if not listener or listener.get("hostname", names[0]) != names[0]:
            yield f"{title(route)} is not at {parent['sectionName']}"
        backends = _backends(route)
        # A route without one redirects.
        expected = [hosts.get(each["name"]) for each in backends] or list(hosts.values())
        if names != expected:
            yield f"{title(route)} has the hosts {names}, the addresses have {expected}"
        for backend in backends:
            [port] = one(resources, "Service", backend["name"])["spec"]["ports"]
            if port["port"] != backend["port"] or port["targetPort"] != "http":
                yield f"{title(route)} leads to {backend}"


def the_gateway_removes_the_traces_of_clients(resources: list[Resource]) -> Iterator[str]:
    for route in filter(_backends, of(resources, "HTTPRoute")):
        [rule] = route["spec"]["rules"]
        removed = {
            name
            for each in rule.get("filters", [])
            if each["type"] == "RequestHeaderModifier"
            for name in each["requestHeaderModifier"].get("remove", [])
        }
        yield from (f"{title(route)} lets {name} in" for name in TRACE_HEADERS - removed)


def traefik_serves_the_gateway(resources: list[Resource]) -> Iterator[str]:
    [container] = pod(one(resources, "Deployment", "traefik"))["containers"]
    if "--providers.kubernetesgateway=true" not in container["args"]:
        yield "it looks for no Gateway"
    [port] = [each["containerPort"] for each in container["ports"] if each["name"] == "web"]
    if f"--entrypoints.web.address=:{port}" not in container["args"]:
        yield f"nothing listens on {port}"
    classes = {each["metadata"]["name"] for each in of(resources, "GatewayClass")}
    for gateway in of(resources, "Gateway"):
        if gateway["spec"]["gatewayClassName"] not in classes:
            yield f"{title(gateway)} is not of {classes}"
        for listener in gateway["spec"]["listeners"]:
            if listener["port"] != port:
                yield f"{listener['name']} is at {listener['port']}, Traefik at {port}"


def only_the_listed_pairs_may_connect(resources: list[Resource]) -> Iterator[str]:
    expected = APP_PAIRS | (OPERATOR_PAIRS if of(resources, "Cluster") else set())
    if one(resources, "StatefulSet", "redis")["spec"]["replicas"] > 1:
        expected |= REPLICA_PAIRS
    ours = {each.name for each in all_pods(resources) if each.namespace == NAMESPACE}
    for name in LOADS & ours:
        expected |= {f"{name} → {end}" for end in LOAD_ENDS}
    for direction, end in (("Egress", 0), ("Ingress", 1)):
        found = allowed(resources, direction)
        listed = {pair for pair in expected if pair.rpartition(" ")[0].split(" → ")[end] in ours}
        yield from (f"{direction} allows {pair}" for pair in sorted(found - listed))
        yield from (f"{direction} does not allow {pair}" for pair in sorted(listed - found))
