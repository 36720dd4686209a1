"""The app on a cluster of kind's, reached through the Ingress."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.wait import wait_for

from e2e.kind import Kind
from e2e.running import CommandError
from e2e.target import Page, Role, Server, Servers, Target

NAMESPACE = "voting"
# Who needs nobody first: the others are ready a moment longer than their servers.
WORKLOADS = {
    "redis": "statefulset/redis",
    "postgres": "statefulset/postgres",
    "worker": "deployment/worker",
    "vote": "deployment/vote",
    "result": "deployment/result",
}
PORTS = {"redis": 6379, "postgres": 5432}

# Seconds in which nodes have fetched images that they never had. A Deployment gives up then too.
FETCHED = 600

PAUSE = 0.5  # seconds between two questions to the cluster


class Cluster(Target):
    """The overlay `kind`: two pods each of vote and result, a worker, Redis and Postgres."""

    patience = 180.0

    def __init__(self, kind: Kind, say: Callable[[str], None], started: datetime) -> None:
        self.kind = kind
        self._say = say
        # Tags that no node has: what is there already under a tag is not fetched anew.
        self.tags = [f"{started:%Y%m%d%H%M%S}-{number}" for number in (1, 2)]

    @classmethod
    def start(cls, kind: Kind, say: Callable[[str], None], *, existing: bool) -> "Cluster":
        """Bring the app as it is in this folder to the cluster, and wait for it."""
        cluster = cls(kind, say, datetime.now(UTC))
        if existing:
            kind.use()
        else:
            kind.create()
        kind.build(*cluster.tags)
        cluster.apply(cluster.tags[0])
        cluster.command("open", "--yes")
        return cluster

    def apply(self, tag: str) -> None:
        """Have this version run: the schema first, then the servers' users and the roles."""
        self.kind.apply(tag)
        self._say("waiting for the ingress controller")
        self._rolled_out("deployment/traefik", "traefik", FETCHED)
        self._say("waiting for the servers")
        for server in PORTS:
            self._rolled_out(WORKLOADS[server], seconds=FETCHED)
        self._say("waiting for the migration")
        self._wait("the migration", lambda: self.migrated(tag), FETCHED)
        self._say("waiting for every part")
        self.ready()
        self._say("ready")

    # --- what tests may ask of any target

    @property
    def key(self) -> str:
        return self._secret("vote", "SECRET_KEYS").partition(",")[0]

    def address(self, page: Page) -> str:
        return f"http://{page}.localhost:{self.kind.port}"

    def ready(self) -> None:
        for workload in WORKLOADS.values():
            self._rolled_out(workload)
        # Endpoints take a moment to come to the ingress controller, which asks one after the other.
        for page in ("vote", "result"):
            self._wait(f"the page of {page}", lambda page=page: self._answers(page))

    def kill(self, part: Role | Server) -> None:
        pod = self.pods(part)[0]
        name, before = pod["metadata"]["name"], _container(pod, part)
        container = before["containerID"].removeprefix("containerd://")
        # From outside of its namespace, where alone the first process can be killed.
        pid = "crictl inspect --output go-template --template '{{.info.pid}}'"
        self.kind.node("bash", "-c", f"kill -9 $({pid} {container})")

        def replaced() -> bool:
            now = _container(self.kind.get("pod", name, f"--namespace={NAMESPACE}"), part)
            return now["restartCount"] > before["restartCount"] and "running" in now["state"]

        self._wait(f"another {part}", replaced)

    def restart(self, part: Role | Server) -> None:
        self.kubectl("rollout", "restart", WORKLOADS[part])
        self.ready()

    @contextmanager
    def away(self, server: Server) -> Iterator[None]:
        self._scale(server, 0)
        try:
            yield
        finally:
            self._scale(server, 1)
            self.ready()

    def metrics(self, role: Role) -> list[str]:
        texts = []
        for pod in self.pods(role):
            with self.kind.forward(NAMESPACE, pod["metadata"]["name"], 9090) as port:
                url = f"http://127.0.0.1:{port}/metrics"
                texts.append(httpx.get(url, trust_env=False).text)
        return texts

    def command(self, *words: str) -> str:
        # Not any of the Deployment: that could be one on its way out.
        worker = self.pods("worker")[0]["metadata"]["name"]
        return self.kubectl(
            *("exec", worker, "--container=worker", "--", "voting", *words),
            timeout=self.patience,
        )

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        urls = {
            "redis": self._secret("worker", "REDIS_URL"),
            "postgres": self._secret("worker", "DATABASE_URL"),
        }
        with (
            self.kind.forward(NAMESPACE, "redis-0", PORTS["redis"]) as redis,
            self.kind.forward(NAMESPACE, "postgres-0", PORTS["postgres"]) as postgres,
        ):
            yield Servers(
                database_url=_at(urls["postgres"], postgres), redis_url=_at(urls["redis"], redis)
            )

    # --- what only tests of the cluster ask

    def kubectl(self, *words: str, timeout: float = 60) -> str:
        """Run kubectl on the app's namespace. Raises CommandError."""
        return self.kind.kubectl(f"--namespace={NAMESPACE}", *words, timeout=timeout)

    def pods(self, component: str) -> list[Any]:
        """List the pods of a part that are not on their way out."""
        pods = self._all_pods(component)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def _all_pods(self, component: str) -> list[Any]:
        selector = f"--selector=app.kubernetes.io/component={component}"
        return list(self.kind.get("pods", f"--namespace={NAMESPACE}", selector)["items"])

    def migrated(self, tag: str) -> bool:
        """Whether the Job of that version is done."""
        job = self.kind.get("job", f"migrate-{tag}", f"--namespace={NAMESPACE}")
        status = job["status"]
        conditions = {each["type"] for each in status.get("conditions", ()) if is_true(each)}
        if "Failed" in conditions:
            pytest.fail(f"the migration of {tag} has failed")
        return "Complete" in conditions and status["succeeded"] == 1

    def scale(self, role: Role, replicas: int) -> None:
        """Have so many pods of a role, and wait until there are."""
        self._scale(role, replicas)
        self._rolled_out(WORKLOADS[role])

    def roll(self, *roles: Role) -> None:
        """Replace all pods of these roles, as an upgrade does, and wait until that is done."""
        self.kubectl("rollout", "restart", *(WORKLOADS[role] for role in roles))
        for role in roles:
            self._rolled_out(WORKLOADS[role])

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

    def _answers(self, page: Page) -> bool:
        """Whether all pods of a page can be reached, which are asked in turn."""
        with suppress(httpx.TransportError), self.visitor(page) as visitor:
            return all(visitor.get("/").status_code == httpx.codes.OK for _ in range(6))
        return False

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float = patience) -> None:
        """Wait until something holds, also where the cluster can't tell for a moment."""

        def holds() -> bool:
            with suppress(CommandError):
                return condition()
            return False

        wait_for(what, holds, seconds, PAUSE)

    def _secret(self, role: Role, variable: str) -> str:
        """Read a variable that a role has from a Secret."""
        deployment = self.kind.get(WORKLOADS[role], f"--namespace={NAMESPACE}")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        [reference] = [
            each["valueFrom"]["secretKeyRef"]
            for each in container["env"]
            if each["name"] == variable
        ]
        secret = self.kind.get("secret", reference["name"], f"--namespace={NAMESPACE}")
        return base64.b64decode(secret["data"][reference["key"]]).decode()


def _container(pod: Any, name: str) -> Any:
    """Tell the state of a container."""
    [found] = [each for each in pod["status"]["containerStatuses"] if each["name"] == name]
    return found


def is_true(condition: Any) -> bool:
    """Whether a condition of an object holds."""
    return bool(condition["status"] == "True")


def _at(url: str, port: int) -> str:
    """Change where a URL points: a port of this machine."""
    parts = urlsplit(url)
    credentials, _, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()
