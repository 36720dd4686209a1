"""`compose.yaml` runs what the overlay for kind runs; each rule finds each mistake put into it."""

import base64
import copy
import re
from collections.abc import Callable, Iterator
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import pytest
import yaml

from voting.settings import ROLE_SETTINGS, MigrateSettings, Role, load_settings

from .rendering import Resource, one, pod, render

ROOT = Path(__file__).parent.parent.parent

Services = dict[str, Any]
Rule = Callable[[Services], Iterator[str]]
Change = Callable[[Services], object]

PODS = {
    "redis": "StatefulSet",
    "postgres": "StatefulSet",
    "migrate": "Job",
    **dict.fromkeys(Role, "Deployment"),
}

# What the page's address is differs from the cluster.
ADDRESSES = ("VOTE_URL", "RESULT_URL")

# Nothing else is used, least of all what takes a container's confinement away.
KEYS = {
    *("image", "build", "pull_policy", "user", "entrypoint", "command", "init"),
    *("read_only", "cap_drop", "security_opt", "tmpfs", "shm_size", "mem_limit", "cpus"),
    *("environment", "env_file", "volumes", "ports", "networks", "network_mode"),
    *("depends_on", "healthcheck", "restart", "stop_signal", "stop_grace_period"),
}

CONFINED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}

PORTS = {
    "vote": ["127.0.0.1:8080:8080"],
    "result": ["127.0.0.1:8081:8080"],
    "admin-port": ["127.0.0.1:8082:8083"],
}

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
RESOURCES = render("overlays/kind")
BASE = render("base")  # the overlay limits memory to what a test needs


def services() -> Services:
    return copy.deepcopy(COMPOSE["services"])


def default(text: str) -> str:
    """Replace `${NAME:-default}` by the default."""
    while (replaced := re.sub(r"\$\{\w+:-([^${}]*)\}", r"\1", text)) != text:
        text = replaced
    return text


def environment(service: Resource) -> dict[str, str]:
    files = service.get("env_file", [])
    lines = [
        line
        for file in ([files] if isinstance(files, str) else files)
        for line in (ROOT / file).read_text().splitlines()
    ]
    found = dict(line.split("=", 1) for line in lines)
    return found | {name: default(each) for name, each in service.get("environment", {}).items()}


def pod_of(name: str, resources: list[Resource] = RESOURCES) -> Resource:
    return pod(one(resources, PODS[name], name))


def container_of(name: str, resources: list[Resource] = RESOURCES) -> Resource:
    [found] = pod_of(name, resources)["containers"]
    return found


def data(kind: str, name: str) -> dict[str, str]:
    [found] = [
        each for each in RESOURCES if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    if kind == "ConfigMap":
        return found["data"]
    return {key: base64.b64decode(each).decode() for key, each in found["data"].items()}


def pod_environment(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    container = container_of(name)
    for each in container.get("envFrom", []):
        for source, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            found |= data(kind, each[source]["name"]) if source in each else {}
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
        else:
            key = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = data("Secret", key["name"])[key["key"]]
    return found


def megabytes(size: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([mg]|[MG]i)", size).groups()
    return int(number) * {"m": 1, "g": 1024}[unit[0].lower()]


def mounts(name: str) -> tuple[dict[str, str], set[str], dict[str, float]]:
    """Return a pod's files, the folders of its claims, and the megabytes of its empty folders."""
    files, claims, empty = {}, set(), {}
    volumes = {each["name"]: each for each in pod_of(name).get("volumes", [])}
    for mount in container_of(name).get("volumeMounts", []):
        path, volume = mount["mountPath"], volumes[mount["name"]]
        if "persistentVolumeClaim" in volume:
            claims.add(path)
        elif "emptyDir" in volume:
            empty[path] = megabytes(volume["emptyDir"]["sizeLimit"])
        else:
            kind = "ConfigMap" if "configMap" in volume else "Secret"
            source = volume.get("configMap", {}).get("name") or volume["secret"]["secretName"]
            files |= {f"{path}/{key}": text for key, text in data(kind, source).items()}
    return files, claims, empty


def each_service_has_the_settings_of_its_pod(services: Services) -> Iterator[str]:
    for name in PODS:
        given, wanted = environment(services[name]), pod_environment(name)
        for each in ADDRESSES:
            if name in {Role.VOTE, Role.RESULT, Role.ADMIN} and "localhost:" not in given.get(
                each, ""
            ):
                yield f"{name} has no {each}"
            given.pop(each, None)
            wanted.pop(each, None)
        if given != wanted:
            yield f"{name} differs in {sorted(set(given.items()) ^ set(wanted.items()))}"


def each_service_runs_as_its_pod(services: Services) -> Iterator[str]:
    for name, service in services.items():
        if name not in PODS:
            if (service["image"], service["user"]) != (services["vote"]["image"], "65532:65532"):
                yield f"{name} is not of the app"
            continue
        context, container = pod_of(name)["securityContext"], container_of(name)
        limits = container_of(name, BASE)["resources"]["limits"]
        cpus = limits["cpu"]
        given = (
            re.sub(r"^docker\.io/(library/)?", "", default(service["image"])),
            service["user"],
            service.get("entrypoint"),
            service.get("command"),
            megabytes(service["mem_limit"]),
            service["cpus"],
        )
        wanted = (
            container["image"],
            f"{context['runAsUser']}:{context['runAsGroup']}",
            container.get("command"),
            container.get("args"),
            megabytes(limits["memory"]),
            float(cpus[:-1]) / 1000 if cpus.endswith("m") else float(cpus),
        )
        if given != wanted:
            yield f"{name} runs {given}, its pod {wanted}"
        grace = pod_of(name)["terminationGracePeriodSeconds"]
        if name != "migrate" and service["stop_grace_period"] != f"{grace}s":
            yield f"{name} has no {grace} seconds to stop in"


def each_service_has_the_files_of_its_pod(services: Services) -> Iterator[str]:
    for name, service in services.items():
        files, claims, empty = mounts(name) if name in PODS else ({}, set(), {})
        given, kept = {}, set()
        for source, path, *options in (each.split(":") for each in service.get("volumes", [])):
            if not source.startswith("./"):
                kept.add(path)
            elif options != ["ro,z"] or not (ROOT / source).is_file():
                yield f"{name} mounts {source} with {options}"
            elif name in PODS:
                given[path] = (ROOT / source).read_text()
        if (given, kept) != (files, claims):
            yield f"{name} has {sorted(given)} and keeps {kept}"
        sizes = {
            path: megabytes(size)
            for path, _, size in (t.partition(":size=") for t in service.get("tmpfs", []))
        }
        if "shm_size" in service:
            sizes["/dev/shm"] = megabytes(service["shm_size"])
        if sizes != empty:
            yield f"{name} may write to {sizes}"


def every_service_is_confined(services: Services) -> Iterator[str]:
    for name, service in services.items():
        if any(service.get(key) != value for key, value in CONFINED.items()):
            yield f"{name} is not confined"
        yield from (f"{name} has {key}" for key in service.keys() - KEYS)
        if service.get("network_mode", "service:admin-port") != "service:admin-port":
            yield f"{name} has another network"


def pages_are_published_on_loopback(services: Services) -> Iterator[str]:
    ports = {name: each["ports"] for name, each in services.items() if "ports" in each}
    given = {name: [default(port) for port in each] for name, each in ports.items()}
    if given != PORTS:
        yield f"{given} are published"
    if services["admin-port"]["entrypoint"] != ["python", "/forward.py", "8083", "8082"]:
        yield "the port of the admin page leads elsewhere"


def networks_lead_to_the_servers_that_are_used(services: Services) -> Iterator[str]:
    servers = {"queue": "REDIS_URL", "database": "DATABASE_URL"}
    for name in (*ROLE_SETTINGS, "migrate"):
        holder = services["admin-port" if name == Role.ADMIN else name]
        used = {network for network, url in servers.items() if url in environment(services[name])}
        if set(holder["networks"]) != used:
            yield f"{name} is in {holder['networks']}"
    for name, network in (("redis", "queue"), ("postgres", "database")):
        if services[name]["networks"] != [network]:
            yield f"{name} is in {services[name]['networks']}"


def roles_wait_for_the_schema_and_stop_before_the_servers(services: Services) -> Iterator[str]:
    started, migrated = "service_started", "service_completed_successfully"
    for name in ROLE_SETTINGS:
        given = {key: each["condition"] for key, each in services[name]["depends_on"].items()}
        wanted = {"redis": started} if "REDIS_URL" in environment(services[name]) else {}
        if "initContainers" in pod_of(name):
            wanted |= {"postgres": started, "migrate": migrated}
        if given != wanted:
            yield f"{name} waits for {given}"


def health_checks_ask_what_readiness_probes_ask(services: Services) -> Iterator[str]:
    for name, service in services.items():
        if name in {"migrate", "admin-port"}:
            continue
        probe = container_of(name)["readinessProbe"]
        kind, *command = service["healthcheck"]["test"]
        if "exec" in probe:
            asks = command == probe["exec"]["command"]
        else:
            asks = f"http://127.0.0.1:9090{probe['httpGet']['path']}" in command[-1]
        if kind != "CMD" or not asks:
            yield f"the health check of {name} is {command}"


def services_restart(services: Services) -> Iterator[str]:
    for name, service in services.items():
        if service.get("restart") != (None if name == "migrate" else "unless-stopped"):
            yield f"{name} restarts {service.get('restart')}"


MISTAKES: dict[Rule, list[Change]] = {
    each_service_has_the_settings_of_its_pod: [
        lambda s: s["vote"]["environment"].update(ROLE="result"),
        lambda s: s["vote"]["environment"].update(VOTE_PER_MINUTE="5"),
        lambda s: s["vote"]["environment"].pop("VOTE_URL"),
        lambda s: s["vote"]["env_file"].append("deploy/overlays/kind/voting/admin.env"),
        lambda s: s["worker"]["env_file"].remove("deploy/base/question.env"),
        lambda s: s["admin"]["environment"].pop("ADMIN_TOKEN"),
        lambda s: s["postgres"]["environment"].pop("POSTGRES_INITDB_ARGS"),
    ],
    each_service_runs_as_its_pod: [
        lambda s: s["postgres"].update(image="docker.io/library/postgres:17"),
        lambda s: s["vote"].update(image="docker.io/library/voting:latest"),
        lambda s: s["redis"].update(user="0:0"),
        lambda s: s["admin-port"].update(user="0:0"),
        lambda s: s["redis"].pop("entrypoint"),
        lambda s: s["migrate"].update(command=["migrate"]),
        lambda s: s["redis"].update(mem_limit="1g"),
        lambda s: s["postgres"].update(stop_grace_period="10s"),
    ],
    each_service_has_the_files_of_its_pod: [
        lambda s: s["redis"]["volumes"].pop(),
        lambda s: s["redis"]["volumes"].remove("redis:/data"),
        lambda s: s["postgres"]["volumes"].append("./deploy/base/missing.sql:/a:ro,z"),
        lambda s: s["admin-port"].update(volumes=["./deploy/compose/forward.py:/forward.py"]),
        lambda s: s["vote"].update(volumes=["vote:/data"]),
        lambda s: s["postgres"].pop("shm_size"),
        lambda s: s["vote"].update(tmpfs=["/tmp:size=64m"]),
    ],
    every_service_is_confined: [
        lambda s: s["vote"].pop("cap_drop"),
        lambda s: s["redis"].update(read_only=False),
        lambda s: s["admin-port"].update(security_opt=[]),
        lambda s: s["worker"].update(privileged=True),
        lambda s: s["admin"].update(network_mode="host"),
    ],
    pages_are_published_on_loopback: [
        lambda s: s["vote"].update(ports=["${VOTE_PORT:-8080}:8080"]),
        lambda s: s["result"].update(ports=["127.0.0.1:8081:9090"]),
        lambda s: s["redis"].update(ports=["127.0.0.1:6379:6379"]),
        lambda s: s["admin-port"].update(entrypoint=["python", "/forward.py", "8083", "9090"]),
    ],
    networks_lead_to_the_servers_that_are_used: [
        lambda s: s["vote"].update(networks=["queue", "database"]),
        lambda s: s["admin-port"].update(networks=["queue"]),
        lambda s: s["redis"].update(networks=["queue", "database"]),
    ],
    roles_wait_for_the_schema_and_stop_before_the_servers: [
        lambda s: s["worker"]["depends_on"].pop("migrate"),
        lambda s: s["result"]["depends_on"]["migrate"].update(condition="service_started"),
        lambda s: s["vote"]["depends_on"].clear(),
    ],
    health_checks_ask_what_readiness_probes_ask: [
        lambda s: s["redis"]["healthcheck"].update(test=["CMD", "valkey-cli", "ping"]),
        lambda s: s["postgres"]["healthcheck"].update(test=["CMD-SHELL", "pg_isready"]),
        lambda s: s["worker"].update(healthcheck={"test": ["CMD", "python", "-c", "pass"]}),
    ],
    services_restart: [
        lambda s: s["vote"].pop("restart"),
        lambda s: s["migrate"].update(restart="always"),
    ],
}


@pytest.mark.parametrize("rule", MISTAKES, ids=lambda rule: rule.__name__)
def test_the_rule_holds(rule: Rule):
    assert list(rule(services())) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule, changes in MISTAKES.items() for change in changes],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_rule_finds_the_mistake(rule: Rule, change: Change):
    changed = services()
    change(changed)
    assert list(rule(changed)), "the rule found nothing"


def test_every_rule_is_tested():
    assert {each for each in globals().values() if isgeneratorfunction(each)} == set(MISTAKES)


@pytest.mark.parametrize("name", [*ROLE_SETTINGS, "migrate"])
def test_a_service_takes_its_settings(name: str):
    model = ROLE_SETTINGS.get(name, MigrateSettings)
    assert load_settings(model, environment(COMPOSE["services"][name]))


def test_one_service_builds_the_image_and_the_others_wait_for_it():
    app = {
        name: (each.get("build"), each["pull_policy"])
        for name, each in COMPOSE["services"].items()
        if "VOTING_IMAGE" in each["image"]
    }
    assert app.pop("migrate") == (".", "missing")
    assert set(app) == {*Role, "admin-port"}
    assert set(app.values()) == {(None, "never")}


def test_no_other_network_or_volume_is_declared():
    assert set(COMPOSE["networks"]) == {"queue", "database"}
    assert set(COMPOSE["volumes"]) == {"redis", "postgres"}
