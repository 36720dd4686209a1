"""Policies on each pod. A policy is a generator of violations."""

from collections.abc import Iterator

from voting.settings import ROLE_SETTINGS, Role, RoleSettings
from voting.web import server
from voting.web.ops import READY_TIMEOUT

from .rendering import Resource, every_container, of, one, pod, title, workloads

# Traefik reads Ingresses from the API server.
TOKEN_USERS = {"Deployment traefik"}

CONFINED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def every_container_has_requests_and_limits(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        for bound in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in container.get("resources", {}).get(bound, {}):
                    yield f"{name} has no {bound} of {resource}"


def every_container_is_confined(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        if container.get("securityContext") != CONFINED:
            yield f"{name} has the security context {container.get('securityContext')}"


def every_pod_is_unprivileged(resources: list[Resource]) -> Iterator[str]:
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
            yield f"the account {name} mounts its token into every pod"
        expected = title(workload) in TOKEN_USERS
        if spec.get("automountServiceAccountToken") is not expected:
            yield f"{title(workload)} {'needs' if expected else 'has'} a token"


def images_have_tags(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"} or container["imagePullPolicy"] != "IfNotPresent":
            yield f"{name} runs {container['image']}, pulled {container['imagePullPolicy']}"


def containers_listen_on_the_probed_ports(resources: list[Resource]) -> Iterator[str]:
    for name, container in every_container(resources):
        settings = ROLE_SETTINGS.get(container["name"], RoleSettings).model_fields
        defaults = {"http": settings["port"].default, "ops": settings["ops_port"].default}
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        for port in defaults.keys() & ports.keys():
            if ports[port] != defaults[port]:
                yield f"{name} does not listen on {ports[port]} for {port}"
        for kind in ("startup", "liveness", "readiness"):
            probe = container.get(f"{kind}Probe", {})
            target = probe.get("httpGet") or probe.get("tcpSocket")
            if target and target["port"] not in ports:
                yield f"{name} is probed on {target['port']}"


def probes_request_the_right_paths(resources: list[Resource]) -> Iterator[str]:
    for role in ROLE_SETTINGS:
        [container] = pod(one(resources, "Deployment", role))["containers"]
        paths = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
        for kind, path in paths.items():
            if container.get(f"{kind}Probe", {}).get("httpGet") != {"path": path, "port": "ops"}:
                yield f"{role}: the {kind} probe does not request {path}"
        if container.get("readinessProbe", {}).get("timeoutSeconds", 1) <= READY_TIMEOUT + 0.5:
            yield f"{role}: the readiness probe times out before the role does"


def a_rollout_refuses_no_request(resources: list[Resource]) -> Iterator[str]:
    for role in ROLE_SETTINGS.keys() - {Role.ADMIN}:
        deployment = one(resources, "Deployment", role)
        if deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
            yield f"{role}: a rollout stops a pod before its successor is ready"
        [container] = pod(deployment)["containers"]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if role != Role.WORKER and sleep < 5:
            yield f"{role}: a pod stops before the proxies remove it"
        if pod(deployment)["terminationGracePeriodSeconds"] < sleep + server.SHUTDOWN_TIMEOUT + 1:
            yield f"{role}: Kubernetes kills a pod before it has drained"
        if one(resources, "PodDisruptionBudget", role)["spec"]["maxUnavailable"] != 1:
            yield f"{role}: a drain may evict more than one pod"


def there_is_one_admin(resources: list[Resource]) -> Iterator[str]:
    spec = one(resources, "Deployment", Role.ADMIN)["spec"]
    if spec["replicas"] != 1 or spec["strategy"] != {"type": "Recreate"}:
        yield "two processes of admin may run, each of which refuses the forms of the other"


def roles_wait_for_the_schema(resources: list[Resource]) -> Iterator[str]:
    for role in ROLE_SETTINGS:
        spec = pod(one(resources, "Deployment", role))
        image = spec["containers"][0]["image"]
        waits = [(each["args"], each["image"]) for each in spec.get("initContainers", [])]
        if waits != ([] if role == Role.VOTE else [(["wait"], image)]):
            yield f"{role}: waits with {waits}"


def the_job_is_named_after_its_image(resources: list[Resource]) -> Iterator[str]:
    job = one(resources, "Job", "migrate")
    images = {each["image"] for _, each in every_container(resources) if "voting" in each["image"]}
    tags = {image.partition(":")[2].partition("@")[0].replace(".", "-") for image in images}
    names = {each["metadata"]["name"].partition("-")[2] for each in of(resources, "Job")}
    if tags != names or len(images) != 1:
        yield f"Jobs for {sorted(names)} run {sorted(images)}"
    spec = pod(job)
    [container] = spec["containers"]
    references = [each["configMapRef"]["name"] for each in container["envFrom"]]
    references += [each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"]]
    if set(references) != {"migrate"}:
        yield f"{title(job)} can't be applied again when {references} change"
    if "ttlSecondsAfterFinished" in job["spec"] or spec["restartPolicy"] != "Never":
        yield f"{title(job)} is deleted, and differs from its manifest"
