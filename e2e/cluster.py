"""The app on a kind cluster, reached through the Ingress, or through a Gateway."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.wait import wait_for

from e2e import overlay
from e2e.kind import Kind
from e2e.running import CommandError
from e2e.target import Page, Role, Server, Servers, Target

NAMESPACE = "voting"
# Servers before roles: a role is ready only after its servers.
WORKLOADS = {
    "redis": "statefulset/redis",
    "postgres": "statefulset/postgres",
    "worker": "deployment/worker",
    "vote": "deployment/vote",
    "result": "deployment/result",
    "admin": "deployment/admin",
}
PORTS = {"redis": 6379, "postgres": 5432}
ADMIN_PORT = 8082

# Seconds for a node to pull new images; also a Deployment's progress deadline.
PULL_TIMEOUT = 600

PAUSE = 0.5  # seconds between two requests to the cluster


class Cluster(Target):
    """An overlay for kind: two pods each of vote and result; worker, admin, Redis and Postgres."""

    patience = 180.0

    def __init__(self, kind: Kind, log: Callable[[str], None], started: datetime) -> None:
        self.kind = kind
        self._log = log
        self.replicated = kind.overlay == overlay.REPLICATED
        self.gateway = kind.overlay == overlay.GATEWAY
        # New tags: a node does not pull a tag that it already has.
        self.tags = [f"{started:%Y%m%d%H%M%S}-{number}" for number in (1, 2)]

    @classmethod
    def start(
        cls, kind: Kind, log: Callable[[str], None], gateway_api: str, *, existing: bool
    ) -> "Cluster":
        """Build and deploy the app of this folder, and wait until it is ready.

        `gateway_api` is a folder or URL with the CRDs for a Gateway.
        """
        cluster = cls(kind, log, datetime.now(UTC))
        if existing:
            kind.use()
        else:
            kind.create()
        if cluster.gateway:
            kind.install_gateway_api(gateway_api)
        kind.build(*cluster.tags)
        cluster.apply(cluster.tags[0])
        cluster.command("open", "--yes")
        return cluster

    def apply(self, tag: str) -> None:
        """Deploy this version, and wait until its migration is complete and each role is ready."""
        self.kind.apply(tag)
        self._log("waiting for the ingress controller")
        self._rolled_out("deployment/traefik", "traefik", PULL_TIMEOUT)
        if self.gateway:
            self._log("waiting for the Gateway")
            self.kubectl(
                *("wait", "gateway/voting", "--for=condition=Programmed"),
                f"--timeout={self.patience:.0f}s",
                timeout=self.patience + 10,
            )
        self._log("waiting for the servers")
        for server in PORTS:
            self._rolled_out(WORKLOADS[server], seconds=PULL_TIMEOUT)
        self._log("waiting for the migration")
        self._wait("the migration", lambda: self.migrated(tag), PULL_TIMEOUT)
        self._log("waiting for every part")
        self.ready()
        self._log("ready")

    # --- Target

    @property
    def key(self) -> str:
        return self._secret("vote", "SECRET_KEYS").partition(",")[0]

    def address(self, page: Page) -> str:
        return f"http://{page}.localhost:{self.kind.port}"

    def ready(self) -> None:
        for workload in WORKLOADS.values():
            self._rolled_out(workload)
        # Traefik learns of ready endpoints with a delay.
        for page in ("vote", "result"):
            self._wait(f"the page of {page}", lambda page=page: self._responds(page))

    def kill(self, part: Role | Server) -> None:
        name = self.primary() if part == "redis" else self.pods(part)[0]["metadata"]["name"]
        before = _container(self._pod(name), part)
        self._signal("KILL", before)

        def replaced() -> bool:
            now = _container(self._pod(name), part)
            return now["restartCount"] > before["restartCount"] and "running" in now["state"]

        self._wait(f"another {part}", replaced)

    def restart(self, *parts: Role | Server) -> None:
        self.kubectl("rollout", "restart", *(WORKLOADS[part] for part in parts))
        self.ready()

    @contextmanager
    def unavailable(self, part: Role | Server) -> Iterator[None]:
        replicas = self._replicas(part)
        self._scale(part, 0)
        try:
            yield
        finally:
            self._scale(part, replicas)
            self.ready()

    def metrics(self, role: Role) -> list[str]:
        texts = []
        for pod in self.pods(role):
            with self.kind.forward(NAMESPACE, pod["metadata"]["name"], 9090) as port:
                url = f"http://127.0.0.1:{port}/metrics"
                texts.append(httpx.get(url, trust_env=False).text)
        return texts

    def command(self, *words: str) -> str:
        return self.kubectl(
            *("exec", self._admin_pod(), "--container=admin", "--", "voting", *words),
            timeout=self.patience,
        )

    @contextmanager
    def admin(self) -> Iterator[str]:
        with self.kind.forward(NAMESPACE, self._admin_pod(), ADMIN_PORT) as port:
            yield f"http://127.0.0.1:{port}/"

    def _admin_pod(self) -> str:
        # Not `deployment/admin`, which may be a pod that is terminating.
        return str(self.pods("admin")[0]["metadata"]["name"])

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        database_url, redis_url = (
            self._secret("worker", name) for name in ("DATABASE_URL", "REDIS_URL")
        )
        with (
            self.kind.forward(NAMESPACE, self.primary(), PORTS["redis"]) as redis,
            self.kind.forward(NAMESPACE, "postgres-0", PORTS["postgres"]) as postgres,
        ):
            yield Servers(_at(database_url, postgres), _at(redis_url, redis))

    # --- only for tests of the cluster

    def kubectl(self, *words: str, timeout: float = 60) -> str:
        """Run kubectl on the app's namespace. Raises CommandError."""
        return self.kind.kubectl(f"--namespace={NAMESPACE}", *words, timeout=timeout)

    def pods(self, component: str) -> list[Any]:
        """List the pods of a part that are not terminating."""
        pods = self._all_pods(component)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def _all_pods(self, component: str) -> list[Any]:
        selector = f"--selector=app.kubernetes.io/component={component}"
        return list(self.kind.get("pods", f"--namespace={NAMESPACE}", selector)["items"])

    def _pod(self, name: str) -> Any:
        return self.kind.get("pod", name, f"--namespace={NAMESPACE}")

    def primary(self) -> str:
        """Return the name of the pod of Redis that takes writes."""
        if not self.replicated:
            return "redis-0"
        name = ""

        def known() -> bool:
            nonlocal name
            for pod in self.pods("redis"):
                words = ("exec", pod["metadata"]["name"], "--container=redis", "--")
                with suppress(CommandError):
                    name = self.kubectl(*words, "sh", "/etc/valkey/redis.sh", "primary").strip()
                    if name:
                        return True
            return False

        self._wait("a primary", known)
        return name

    def claim(self, server: Server) -> str:
        """Return the name of the claim of a server's first pod."""
        return f"data-{server}-0" if server == "redis" and self.replicated else server

    def volume(self, claim: str) -> str | None:
        """Return the name of a claim's volume, or None if it has none yet."""
        found = self.kind.get("persistentvolumeclaim", claim, f"--namespace={NAMESPACE}")
        return found["spec"].get("volumeName")

    def freeze(self, name: str) -> None:
        """Suspend a pod of Redis with its Sentinel, as if its machine was gone."""
        pod = self._pod(name)
        for container in ("redis", "sentinel"):
            self._signal("STOP", _container(pod, container))

    def replace(self, name: str) -> None:
        """Delete a pod of Redis that is frozen and its disk, and wait until another is ready."""
        claim = f"data-{name}"
        before = self.volume(claim)
        # It goes with the pod. The controller makes the next pod once the claim is gone.
        self.kubectl("delete", "persistentvolumeclaim", claim, "--wait=false")
        self.kubectl("delete", "pod", name, "--grace-period=1", timeout=120)
        self._wait(f"another disk of {name}", lambda: self.volume(claim) not in {before, None})
        self._wait(f"another {name}", lambda: is_ready(self._pod(name)))
        self.ready()

    def _signal(self, signal: str, container: Any) -> None:
        name = container["containerID"].removeprefix("containerd://")
        # From the node: the kernel ignores signals for PID 1 from inside its own namespace.
        pid = "crictl inspect --output go-template --template '{{.info.pid}}'"
        self.kind.node("bash", "-c", f"kill -{signal} $({pid} {name})")

    def migrated(self, tag: str) -> bool:
        """Whether the Job of this version is complete."""
        status = self.kind.get("job", f"migrate-{tag}", f"--namespace={NAMESPACE}")["status"]
        conditions = {each["type"] for each in status.get("conditions", ()) if is_true(each)}
        if "Failed" in conditions:
            pytest.fail(f"the migration of {tag} has failed")
        return "Complete" in conditions and status["succeeded"] == 1

    def scale(self, role: Role, replicas: int) -> None:
        """Scale a role, and wait until its pods are ready."""
        self._scale(role, replicas)
        self._rolled_out(WORKLOADS[role])

    def _replicas(self, part: Role | Server) -> int:
        return int(self.kind.get(WORKLOADS[part], f"--namespace={NAMESPACE}")["spec"]["replicas"])

    def _scale(self, part: Role | Server, replicas: int) -> None:
        self.kubectl("scale", WORKLOADS[part], f"--replicas={replicas}")
        self._wait(f"{replicas} of {part}", lambda: len(self._all_pods(part)) == replicas)

    def _rolled_out(
        self, workload: str, namespace: str = NAMESPACE, seconds: float = patience
    ) -> None:
        self.kind.kubectl(
            *("rollout", "status", workload, f"--namespace={namespace}"),
            f"--timeout={seconds:.0f}s",
            timeout=seconds + 10,
        )

    def _responds(self, page: Page) -> bool:
        """Whether all pods of a page respond. Traefik uses them in turn."""
        with suppress(httpx.TransportError), self.visitor(page) as visitor:
            return all(visitor.get("/").status_code == httpx.codes.OK for _ in range(6))
        return False

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float = patience) -> None:
        """Wait until a condition holds; retry if kubectl fails."""

        def holds() -> bool:
            with suppress(CommandError):
                return condition()
            return False

        wait_for(what, holds, seconds, PAUSE)

    def _secret(self, role: Role, name: str) -> str:
        """Read a variable that a role has from a Secret."""
        deployment = self.kind.get(WORKLOADS[role], f"--namespace={NAMESPACE}")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        [variable] = [each for each in container["env"] if each["name"] == name]
        reference = variable["valueFrom"]["secretKeyRef"]
        secret = self.kind.get("secret", reference["name"], f"--namespace={NAMESPACE}")
        return base64.b64decode(secret["data"][reference["key"]]).decode()


def _container(pod: Any, name: str) -> Any:
    """Return the status of a container, or of a sidecar."""
    status = pod["status"]
    every = [*status["containerStatuses"], *status.get("initContainerStatuses", ())]
    [found] = [each for each in every if each["name"] == name]
    return found


def is_ready(pod: Any) -> bool:
    return any(
        each["type"] == "Ready" and is_true(each) for each in pod["status"].get("conditions", ())
    )


def is_true(condition: Any) -> bool:
    """Whether a condition of an object has the status True."""
    return bool(condition["status"] == "True")


def _at(url: str, port: int) -> str:
    """Replace the host and port of a URL, or the Sentinels in it, by a port of this machine."""
    parts = urlsplit(url)
    if parts.scheme == "redis+sentinel":
        parts = parts._replace(scheme="redis", path="/0")
    credentials, _, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
