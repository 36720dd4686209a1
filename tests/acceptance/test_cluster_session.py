"""The commands that the end-to-end session runs, with stand-ins that record them.

Only a real cluster shows what comes of the commands.
"""

import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from support.environ import ENVIRON

ROOT = Path(__file__).parents[2]
PROGRAMS = ("docker", "kind", "kubectl")

CREATED = """\
kind delete cluster --name pytest-voting-e2e
kubectl --kubeconfig FOLDER/kubeconfig get --raw=/readyz?verbose
kind create cluster --config FOLDER/kind.yaml --kubeconfig FOLDER/kubeconfig
kubectl --kubeconfig FOLDER/kubeconfig get --raw=/readyz?verbose
kubectl --kubeconfig FOLDER/kubeconfig get sa default -n default
"""

STARTED = """\
docker build --tag=voting:T-1 --tag=voting:T-2 --build-arg=VERSION=V .
kind load docker-image voting:T-1 --name pytest-voting-e2e
kind load docker-image voting:T-2 --name pytest-voting-e2e
kubectl --kubeconfig FOLDER/kubeconfig apply --kustomize FOLDER/overlay-T-1
kubectl --kubeconfig FOLDER/kubeconfig rollout status deployment/traefik --namespace=traefik --timeout=600s
kubectl --kubeconfig FOLDER/kubeconfig rollout status statefulset/redis --namespace=voting --timeout=600s
kubectl --kubeconfig FOLDER/kubeconfig rollout status statefulset/postgres --namespace=voting --timeout=600s
kubectl --kubeconfig FOLDER/kubeconfig get job migrate-T-1 --namespace=voting --output=json
kubectl --kubeconfig FOLDER/kubeconfig rollout status statefulset/redis --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig rollout status statefulset/postgres --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig rollout status deployment/worker --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig rollout status deployment/vote --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig rollout status deployment/result --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig rollout status deployment/admin --namespace=voting --timeout=180s
kubectl --kubeconfig FOLDER/kubeconfig get pods --namespace=voting --selector=app.kubernetes.io/component=admin --output=json
kubectl --kubeconfig FOLDER/kubeconfig --namespace=voting exec admin-1 --container=admin -- voting open --yes
"""  # noqa: E501 - a command is a line

# As STARTED, with CRDs before it and a Gateway in it.
GATEWAY_INSTALLED = """\
kubectl --kubeconfig FOLDER/kubeconfig apply --server-side --filename=CRDS/gateway.networking.k8s.io_gatewayclasses.yaml --filename=CRDS/gateway.networking.k8s.io_gateways.yaml --filename=CRDS/gateway.networking.k8s.io_httproutes.yaml --filename=CRDS/gateway.networking.k8s.io_grpcroutes.yaml --filename=CRDS/gateway.networking.k8s.io_tlsroutes.yaml --filename=CRDS/gateway.networking.k8s.io_referencegrants.yaml --filename=CRDS/gateway.networking.k8s.io_backendtlspolicies.yaml
kubectl --kubeconfig FOLDER/kubeconfig wait crd/gatewayclasses.gateway.networking.k8s.io crd/gateways.gateway.networking.k8s.io crd/httproutes.gateway.networking.k8s.io crd/grpcroutes.gateway.networking.k8s.io crd/tlsroutes.gateway.networking.k8s.io crd/referencegrants.gateway.networking.k8s.io crd/backendtlspolicies.gateway.networking.k8s.io --for=condition=Established --timeout=60s
"""  # noqa: E501 - as above

GATEWAY_PROGRAMMED = """\
kubectl --kubeconfig FOLDER/kubeconfig --namespace=voting wait gateway/voting --for=condition=Programmed --timeout=180s
"""  # noqa: E501 - as above

GATEWAYS_REPORTED = """\
kubectl --kubeconfig FOLDER/kubeconfig get gatewayclasses,gateways,httproutes --all-namespaces --output=yaml
"""  # noqa: E501 - as above

CHECKED = """\
kubectl --kubeconfig FOLDER/kubeconfig get job migrate-T-1 --namespace=voting --output=json
"""

REMOVED = """\
kind delete cluster --name pytest-voting-e2e
"""

USED = """\
kind get kubeconfig --name pytest-voting-e2e
kubectl --kubeconfig FOLDER/kubeconfig get --raw=/readyz?verbose
kubectl --kubeconfig FOLDER/kubeconfig get sa default -n default
"""

REPORTED = """\
kubectl --kubeconfig FOLDER/kubeconfig get pods --all-namespaces --output=wide
kubectl --kubeconfig FOLDER/kubeconfig get events --all-namespaces --sort-by=.lastTimestamp
kubectl --kubeconfig FOLDER/kubeconfig describe pods --all-namespaces
kubectl --kubeconfig FOLDER/kubeconfig describe nodes
kubectl --kubeconfig FOLDER/kubeconfig get deployments,statefulsets,jobs,endpointslices,ingresses,networkpolicies --all-namespaces --output=yaml
kubectl --kubeconfig FOLDER/kubeconfig get pods --all-namespaces --output=json
kubectl --kubeconfig FOLDER/kubeconfig logs admin-1 --namespace=voting --container=admin --tail=1000
kubectl --kubeconfig FOLDER/kubeconfig logs admin-1 --namespace=voting --container=admin --tail=1000 --previous
"""  # noqa: E501 - as above

PASSES = "test_the_schema_was_migrated_by_a_job_of_this_version"
FAILS = "test_no_service_has_the_operations_port"


class Session:
    """Runs the session with stand-ins, and keeps their log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        standin = Path(__file__).with_name("standin.py").read_text()
        for name in PROGRAMS:
            program = self._programs / name
            # -S skips site-packages, which a stand-in does not need: each starts in 20 ms.
            program.write_text(f"#!{sys.executable} -S\n{standin}")
            program.chmod(0o755)

    def run(self, test: str, *options: str) -> subprocess.CompletedProcess[str]:
        path = f"{self._programs}:{os.environ['PATH']}"
        self._programs.joinpath("log").unlink(missing_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "e2e", "--target=cluster", "-k", test, *options],
            cwd=ROOT,
            env={**ENVIRON, "PATH": path, "E2E_FOLDER": str(self._folder / "e2e")},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    @property
    def log(self) -> str:
        """The commands without repetitions, and without what differs from run to run."""
        lines = self._programs.joinpath("log").read_text().splitlines(keepends=True)
        text = "".join(line for line, _ in groupby(lines))
        folder = self._folder / "e2e"
        text = text.replace(os.path.relpath(folder, ROOT), "FOLDER").replace(str(folder), "FOLDER")
        return re.sub(r"VERSION=\S+", "VERSION=V", re.sub(r"\d{14}-", "T-", text))


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path)


def test_a_cluster_replaces_a_leftover_and_is_removed_after_the_tests(session):
    done = session.run(PASSES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert session.log == CREATED + STARTED + CHECKED + REMOVED
    steps = re.findall(r"^ +[\d.]+ s  (.*)", done.stdout, re.MULTILINE)
    assert [re.sub(r"\d{14}", "T", step) for step in steps] == [
        "removing what an earlier run has left",
        "creating the cluster pytest-voting-e2e",
        "building the image",
        "loading the image",
        "applying deploy/overlays/kind with the image T-1",
        "waiting for the ingress controller",
        "waiting for the servers",
        "waiting for the migration",
        "waiting for every part",
        "ready",
        "removing the cluster",
    ]


def test_a_cluster_is_kept_and_reused(session):
    kept = session.run(PASSES, "--keep")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert session.log == CREATED + STARTED + CHECKED
    used = session.run(PASSES, "--use-existing")
    assert used.returncode == 0, used.stdout + used.stderr
    assert session.log == USED + STARTED + CHECKED


def test_a_gateway_has_its_crds_before_it_and_is_waited_for(session):
    done = session.run(PASSES, "--gateway", "--gateway-api=CRDS")
    assert done.returncode == 0, done.stdout + done.stderr
    traefik = next(line for line in STARTED.splitlines(keepends=True) if "traefik" in line)
    started = STARTED.replace(traefik, traefik + GATEWAY_PROGRAMMED)
    assert session.log == CREATED + GATEWAY_INSTALLED + started + CHECKED + REMOVED
    assert "applying deploy/overlays/kind-gateway with the image" in done.stdout


def test_without_a_folder_the_crds_are_those_of_a_commit_and_a_failure_is_reported(session):
    assert session.run(FAILS, "--gateway").returncode == 1
    [line] = [line for line in session.log.splitlines() if "--server-side" in line]
    commits = re.findall(r"=https://[a-z./-]+/([0-9a-f]{40})/config/crd/standard/", line)
    assert (len(commits), len(set(commits))) == (7, 1)
    assert GATEWAYS_REPORTED in session.log


def test_a_gateway_and_a_replicated_redis_are_refused_together(session):
    done = session.run(PASSES, "--gateway", "--replicated")
    assert done.returncode == 4
    assert "no overlay has both" in done.stderr


def test_a_failure_is_reported_with_pods_events_and_logs_and_the_cluster_removed(session):
    done = session.run(FAILS)
    assert done.returncode == 1
    assert session.log.endswith(REPORTED + REMOVED)
    assert "--- pods" in done.stdout
    assert "--- events" in done.stdout


@pytest.mark.parametrize("fails", ["kind create", "kind load"])
def test_a_failed_start_prints_the_error_and_removes_the_cluster(session, fails):
    session._programs.joinpath("fails").write_text(fails)
    done = session.run(PASSES)
    assert done.returncode == 1
    assert "ERROR: no space left on device" in done.stdout
    assert session.log.endswith(REMOVED)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ((), "docker, kind, kubectl can't be found"),
        (("docker", "kubectl"), "kind can't be found"),
    ],
)
def test_missing_programs_are_named_in_one_line(session, installed, message):
    for name in PROGRAMS:
        if name not in installed:
            session._programs.joinpath(name).unlink()
    assert lacking(session) == f"the end-to-end tests need docker, kind and kubectl: {message}\n"


def test_a_docker_without_its_engine_is_reported(session):
    session._programs.joinpath("docker").write_text("#!/bin/sh\necho\nexit 0\n")
    assert "no engine" in lacking(session)


def lacking(session: Session) -> str:
    done = subprocess.run(
        [sys.executable, "e2e/needs.py"],
        cwd=ROOT,
        env={"PATH": str(session._programs)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.stdout
