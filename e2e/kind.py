"""A kind cluster: its creation, contents, reports after failures, and deletion."""

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

# Seconds on a slow machine with a slow network: to build the image, and for each command of kind.
BUILD, KIND = 1200, 600

OBJECTS = "deployments,statefulsets,jobs,endpointslices,ingresses,networkpolicies"

# The parts of a report, beside the logs of all containers.
STATE = {
    "pods": ("get", "pods", "--all-namespaces", "--output=wide"),
    "events": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    "pods, described": ("describe", "pods", "--all-namespaces"),
    "nodes, described": ("describe", "nodes"),
    "objects": ("get", OBJECTS, "--all-namespaces", "--output=yaml"),
}

# With an own command: it fails where these kinds are not installed.
GATEWAYS = ("get", "gatewayclasses,gateways,httproutes", "--all-namespaces", "--output=yaml")

TAIL = 40  # lines of each log that are printed; the file has more


class Kind:
    """A cluster of one node. A port of this machine is forwarded to Traefik there.

    `log` is called with each step before it starts. `overlay` is the folder that is applied.
    """

    def __init__(self, manager: AClusterManager, log: Callable[[str], None], overlay: str) -> None:
        self._manager = manager
        self._log = log
        self.overlay = overlay
        self.kubeconfig = FOLDER / "kubeconfig"
        self._config = FOLDER / "kind.yaml"
        self.reports = 0  # written so far
        os.environ.pop("KIND_CLUSTER_NAME", None)  # would override the configuration's name

    # --- life cycle

    @property
    def name(self) -> str:
        return self._manager.cluster_name

    @property
    def port(self) -> int:
        """The port of this machine that is forwarded to Traefik."""
        [node] = yaml.safe_load(self._config.read_text())["nodes"]
        return int(node["extraPortMappings"][0]["hostPort"])

    def create(self) -> None:
        """Create the cluster, and delete the one of an earlier run."""
        self._log("removing what an earlier run has left")
        self.delete()
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        template = (ROOT / overlay.KIND / "cluster.yaml").read_text()
        self._config.write_text(overlay.cluster(template, self.name, free_port()))
        self._log(f"creating the cluster {self.name}")
        self._ensure()

    def use(self) -> None:
        """Use the cluster that an earlier run kept."""
        self._log(f"using the cluster {self.name}")
        assert self._config.exists(), f"no cluster was kept: {self._config} is missing"
        self.kubeconfig.write_text(run("kind", "get", "kubeconfig", "--name", self.name))
        self.kubeconfig.chmod(0o600)
        self._ensure()

    def _ensure(self) -> None:
        """Create the cluster, unless its API server responds already."""
        # The manager does not quote paths: a relative path has no spaces.
        config, kubeconfig = (
            Path(os.path.relpath(each)) for each in (self._config, self.kubeconfig)
        )
        options = ClusterOptions(
            provider_config=config, kubeconfig_path=kubeconfig, cluster_timeout=KIND
        )
        with _with_output():
            self._manager.create(options, timeout=120)

    def delete(self) -> None:
        with _with_output():
            self._manager.delete()

    def build(self, *tags: str) -> None:
        """Build the app's image for this machine's platform, and load it under each tag."""
        self._log("building the image")
        names = [f"voting:{tag}" for tag in tags]
        run(
            *("docker", "build", *(f"--tag={name}" for name in names)),
            *(f"--build-arg=VERSION={__version__}", "."),
            timeout=BUILD,
            # kind can't load an image index, which attestations would create.
            env={**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        )
        self._log("loading the image")
        for name in names:
            with _with_output():
                self._manager.load_image(name)

    def install_gateway_api(self, source: str) -> None:
        """Install the CRDs in `source`, a folder or its URL, and wait until they are served."""
        self._log("installing the Gateway API")
        files = (f"{source}/{overlay.GATEWAY_GROUP}_{kind}.yaml" for kind in overlay.GATEWAY_KINDS)
        # By the server: they are longer than the annotation in which kubectl would keep them.
        options = (f"--filename={file}" for file in files)
        self.kubectl("apply", "--server-side", *options, timeout=120)
        names = (f"crd/{kind}.{overlay.GATEWAY_GROUP}" for kind in overlay.GATEWAY_KINDS)
        self.kubectl("wait", *names, "--for=condition=Established", "--timeout=60s", timeout=70)

    def apply(self, tag: str) -> None:
        """Apply the overlay with this tag of the image."""
        self._log(f"applying {self.overlay} with the image {tag}")
        self.kubectl("apply", "--kustomize", str(self.render(tag)), timeout=120)

    def render(self, tag: str) -> Path:
        """Write the overlay with this tag, and return its folder."""
        folder = FOLDER / f"overlay-{tag}"
        folder.mkdir(exist_ok=True)
        app = (ROOT / overlay.APP / "kustomization.yaml").read_text()
        applied = os.path.relpath(ROOT / self.overlay, folder)
        text = overlay.kustomization(app, applied, tag, self.port)
        (folder / "kustomization.yaml").write_text(text)
        return folder

    # --- commands

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
        """Forward a free port of this machine to a port of a pod, and yield it."""
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

            def output() -> str:
                log.seek(0)
                return log.read()

            def forwarded() -> re.Match[str] | None:
                assert process.poll() is None, f"port {port} of {pod} can't be reached: {output()}"
                return re.search(r"^Forwarding from 127\.0\.0\.1:(\d+)", output(), re.MULTILINE)

            try:
                wait_for(f"port {port} of {pod}", forwarded)
                found = forwarded()
                assert found
                yield int(found[1])
            finally:
                process.kill()
                process.wait()

    # --- reports

    def report(self, name: str) -> str:
        """Write pods, events and logs to a folder of that name, and return a summary."""
        self.reports += 1
        folder = FOLDER / re.sub(r"\W+", "-", name).strip("-")
        folder.mkdir(parents=True, exist_ok=True)
        report = [f"kept in {folder}"]
        gateways = {"gateways": GATEWAYS} if self.overlay == overlay.GATEWAY else {}
        for title, words in (STATE | gateways).items():
            text = self._kubectl_or_error(*words)
            (folder / f"{title}.txt").write_text(text)
            if title in {"pods", "events"}:
                report += [f"--- {title}", *text.splitlines()[-TAIL:]]
        for namespace, pod, container in self._containers():
            words = ("logs", pod, f"--namespace={namespace}", f"--container={container}")
            for title, more in {
                f"{pod} {container}": (),
                f"{pod} {container}, before its restart": ("--previous",),
            }.items():
                text = self._kubectl_or_error(*words, "--tail=1000", *more)
                if "previous terminated container" in text:
                    continue
                (folder / f"{title}.log").write_text(text)
                if namespace in {"voting", "traefik"}:
                    report += [f"--- {title}", *text.splitlines()[-TAIL:]]
        return "\n".join(report)

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

    def _kubectl_or_error(self, *words: str) -> str:
        try:
            return self.kubectl(*words)
        except CommandError as error:
            return str(error)


@contextmanager
def _with_output() -> Iterator[None]:
    """Raise CommandError with the output of the manager's command, which its errors lack."""
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
