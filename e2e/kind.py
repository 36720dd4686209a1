"""A cluster of kind's: made, filled, asked, looked into when a test fails, and removed."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pytest_kubernetes.options import ClusterOptions
from pytest_kubernetes.providers.base import AClusterManager
from support.app import GUARDIAN
from support.wait import wait_for

from e2e import overlay
from e2e.running import ROOT, CommandError, run
from voting import __version__

FOLDER = Path(os.environ.get("E2E_FOLDER", ROOT / ".e2e"))

# What a slow machine with a slow line may take, in seconds: to build the image, and for each thing
# that kind does.
BUILD, KIND = 1200, 600

# What is kept of a cluster after a failure, beside the logs of all containers.
STATE = {
    "pods": ("get", "pods", "--all-namespaces", "--output=wide"),
    "events": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    "pods, described": ("describe", "pods", "--all-namespaces"),
    "nodes, described": ("describe", "nodes"),
    "objects": (
        *("get", "deployments,statefulsets,jobs,endpointslices,ingresses,networkpolicies"),
        *("--all-namespaces", "--output=yaml"),
    ),
}

TAIL = 40  # lines of a log that are printed; the file has more


class Kind:
    """A cluster of one node, with a port of this machine that leads to its ingress controller.

    `say` is told each step before it is taken.
    """

    def __init__(self, manager: AClusterManager, say: Callable[[str], None]) -> None:
        self._manager = manager
        self._say = say
        self.kubeconfig = FOLDER / "kubeconfig"
        self._config = FOLDER / "kind.yaml"
        self.reports = 0  # made so far
        os.environ.pop("KIND_CLUSTER_NAME", None)  # would win over the configuration's name

    # --- life

    @property
    def name(self) -> str:
        return self._manager.cluster_name

    @property
    def port(self) -> int:
        """The port of this machine that leads to the ingress controller."""
        [node] = yaml.safe_load(self._config.read_text())["nodes"]
        return int(node["extraPortMappings"][0]["hostPort"])

    def create(self) -> None:
        """Make the cluster, in the place of one that an earlier run has left."""
        self._say("removing what an earlier run has left")
        self.delete()
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        template = (ROOT / overlay.OVERLAY / "cluster.yaml").read_text()
        self._config.write_text(overlay.cluster(template, self.name, free_port()))
        self._say(f"creating the cluster {self.name}")
        self._have()

    def use(self) -> None:
        """Use the cluster that an earlier run has kept."""
        self._say(f"using the cluster {self.name}")
        assert self._config.exists(), f"{self._config} is not there: no earlier run has kept one"
        self.kubeconfig.write_text(run("kind", "get", "kubeconfig", "--name", self.name))
        self.kubeconfig.chmod(0o600)
        self._have()

    def _have(self) -> None:
        """Have the manager make the cluster, unless it answers already."""
        # It puts commands together unquoted: the way from here has no spaces.
        config, kubeconfig = (
            Path(os.path.relpath(each)) for each in (self._config, self.kubeconfig)
        )
        options = ClusterOptions(
            provider_config=config, kubeconfig_path=kubeconfig, cluster_timeout=KIND
        )
        with _telling():
            self._manager.create(options, timeout=120)

    def delete(self) -> None:
        with _telling():
            self._manager.delete()

    def build(self, *tags: str) -> None:
        """Build the app's image for this machine's platform, and load it under each tag."""
        self._say("building the image")
        names = [f"voting:{tag}" for tag in tags]
        run(
            *("docker", "build", *(f"--tag={name}" for name in names)),
            *(f"--build-arg=VERSION={__version__}", "."),
            timeout=BUILD,
            # Or it becomes an index of an image and its attestations, which kind can't load.
            env={**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        )
        self._say("loading the image")
        for name in names:
            with _telling():
                self._manager.load_image(name)

    def apply(self, tag: str) -> None:
        """Apply the overlay with this tag of the image."""
        self._say(f"applying {overlay.OVERLAY} with the image {tag}")
        self.kubectl("apply", "--kustomize", str(self.render(tag)), timeout=120)

    def render(self, tag: str) -> Path:
        """Write the overlay with this tag, and tell its folder."""
        folder = FOLDER / f"overlay-{tag}"
        folder.mkdir(exist_ok=True)
        app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
        text = overlay.kustomization(app, os.path.relpath(ROOT, folder), tag, self.port)
        (folder / "kustomization.yaml").write_text(text)
        return folder

    # --- asking

    def kubectl(self, *words: str, timeout: float = 60) -> str:
        """Run kubectl on this cluster, and return what it printed. Raises CommandError."""
        return run("kubectl", "--kubeconfig", str(self.kubeconfig), *words, timeout=timeout)

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "--output=json"))

    def node(self, *command: str) -> str:
        """Run a command on the node, which is a container."""
        return run("docker", "exec", f"{self.name}-control-plane", *command)

    @contextmanager
    def forward(self, namespace: str, pod: str, port: int) -> Iterator[int]:
        """Lead a free port of this machine to a port of a pod, and tell it."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [
                    *("kubectl", "--kubeconfig", str(self.kubeconfig), f"--namespace={namespace}"),
                    *("port-forward", f"pod/{pod}", f":{port}"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=GUARDIAN.group,
            )

            def said() -> str:
                log.seek(0)
                return log.read()

            def leads() -> re.Match[str] | None:
                assert process.poll() is None, f"port {port} of {pod} can't be reached: {said()}"
                return re.search(r"^Forwarding from 127\.0\.0\.1:(\d+)", said(), re.MULTILINE)

            try:
                wait_for(f"port {port} of {pod}", leads)
                found = leads()
                assert found
                yield int(found[1])
            finally:
                process.kill()
                process.wait()

    # --- after a failure

    def report(self, name: str) -> str:
        """Keep pods, events and logs in a folder of that name, and tell the most of it."""
        self.reports += 1
        folder = FOLDER / re.sub(r"\W+", "-", name).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        told = [f"kept in {folder}"]
        for title, words in STATE.items():
            text = self._try(*words)
            (folder / f"{title}.txt").write_text(text)
            if title in {"pods", "events"}:
                told += [f"--- {title}", *text.splitlines()[-TAIL:]]
        for namespace, pod, container in self._containers():
            words = ("logs", pod, f"--namespace={namespace}", f"--container={container}")
            for title, more in {
                f"{pod} {container}": (),
                f"{pod} {container}, before its restart": ("--previous",),
            }.items():
                text = self._try(*words, "--tail=1000", *more)
                if "previous terminated container" in text:
                    continue
                (folder / f"{title}.log").write_text(text)
                if namespace in {"voting", "traefik"}:
                    told += [f"--- {title}", *text.splitlines()[-TAIL:]]
        return "\n".join(told)

    def _containers(self) -> list[tuple[str, str, str]]:
        try:
            pods = self.get("pods", "--all-namespaces")["items"]
        except CommandError:
            return []
        return [
            (pod["metadata"]["namespace"], pod["metadata"]["name"], container["name"])
            for pod in pods
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        ]

    def _try(self, *words: str) -> str:
        try:
            return self.kubectl(*words)
        except CommandError as error:
            return str(error)


@contextmanager
def _telling() -> Iterator[None]:
    """Tell what a command said that the cluster's manager has run, which would not."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise CommandError(f"{error.cmd}\n{error.stderr.decode(errors='replace')}") from None
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{error.cmd}\nis not done after {error.timeout:g} s") from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
