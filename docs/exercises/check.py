"""Tells whether an exercise is done: `python docs/exercises/check.py N`.

Run it at the top of the repository. The exit code is 0 if the exercise is done; otherwise it is 1,
and the output says what is missing.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

URLS = ("--vote-url=http://vote.localhost:8080", "--result-url=http://result.localhost:8080")
RECORD = Path("mine/votes.record")
PROMETHEUS = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy"
LIMIT = 300  # seconds that a change in the cluster may take
GRACE = 30  # seconds until a policy has effect


class MissingError(Exception):
    """Says what an exercise asks for and is not there."""


def compose() -> None:
    """Two workers run because the files say so, and the votes are counted."""
    run("docker", "compose", "up", "--detach")  # ends workers that only `--scale` has started
    workers = run("docker", "compose", "ps", "--status=running", "--quiet", "worker").split()
    require(len(workers) == 2, f"workers that run: {len(workers)} instead of 2")
    run("voting", "load", "--votes=300", "--check", "--result-url=http://localhost:8081")
    run("docker", "compose", "exec", "-T", "admin", "voting", "audit")


def manifests() -> None:
    """Three pods of the Deployment `vote` are ready by /readyz, and the votes are counted."""
    vote = get("deployment", "vote")
    [container] = vote["spec"]["template"]["spec"]["containers"]
    path = container.get("readinessProbe", {}).get("httpGet", {}).get("path")
    require(path == "/readyz", "the readiness probe of vote does not request /readyz")
    require_pods(3, vote)
    run("voting", "load", "--votes=300", "--check", *URLS)


def rollouts() -> None:
    """Each vote that is cast during a rollout of `vote` is acknowledged, and counted."""
    old = kubectl("get", "pods", "--selector=app.kubernetes.io/component=vote", "--output=name")
    with load() as lines:
        kubectl("rollout", "restart", "deployment/vote")
        kubectl("rollout", "status", f"--timeout={LIMIT}s", "deployment/vote")
        kubectl("wait", "--for=delete", f"--timeout={LIMIT}s", *old.split())
    counts = re.findall(r"acknowledged, ([\d,]+) refused, ([\d,]+) unknown", "".join(lines))
    require(counts[-1] == ("0", "0"), f"votes refused: {counts[-1][0]}, unknown: {counts[-1][1]}")


def autoscaling() -> None:
    """Workers were added because ballots waited, and no ballot waits any more."""
    every = get("horizontalpodautoscalers")["items"]
    found = [each for each in every if each["spec"]["scaleTargetRef"]["name"] == "worker"]
    require(found, "nothing scales the workers")
    spec, status = found[0]["spec"], found[0]["status"]
    types = [each["type"] for each in spec["metrics"]]
    require(types == ["External"], f"the workers are scaled by {types}, not by the backlog")
    require(spec["minReplicas"] == 1 < spec["maxReplicas"], "without a backlog one worker must run")
    require("lastScaleTime" in status, "no worker was added or removed yet: make a backlog")
    require(audit()["backlog"] == 0, "ballots still wait")


def network_policies() -> None:
    """Of the pods only worker, result and admin reach Postgres, and the votes are counted."""
    connect = "import socket; socket.create_connection(('postgres', 5432), 4)"
    python: tuple[str, ...] = ("python", "-c", connect)
    bash = ("timeout", "4", "bash", "-c", "exec 3<>/dev/tcp/postgres/5432")
    wanted = {f"deployment/{role}" for role in ("worker", "result", "admin")}
    pods = {**dict.fromkeys([*wanted, "deployment/vote"], python), "statefulset/redis": bash}

    def reached() -> set[str]:
        return {
            pod
            for pod, command in pods.items()
            if succeeds("kubectl", "--namespace=voting", "exec", pod, "--", *command)
        }

    wait_for(
        lambda: reached() == wanted, lambda: f"Postgres is reached by {sorted(reached())}", GRACE
    )
    run("voting", "load", "--votes=300", "--check", *URLS)


def gitops() -> None:
    """Argo CD has applied the last commit, with three pods of vote, and keeps it so."""
    commit = run("git", "rev-parse", "HEAD").strip()
    application = json.loads(
        run("kubectl", "--namespace=argocd", "get", "application", "voting", "--output=json")
    )
    sync = application.get("status", {}).get("sync", {})
    require(sync.get("revision") == commit, f"Argo CD has {sync.get('revision')}, not {commit}")
    require_pods(3, get("deployment", "vote"))
    kubectl("scale", "deployment/vote", "--replicas=1")
    kubectl("wait", "--for=jsonpath={.spec.replicas}=3", f"--timeout={LIMIT}s", "deployment/vote")


def metrics() -> None:
    """The alert VotingBusy fires while 100 votes a second come in, and not without them."""

    def wait_until(state: str) -> None:
        wait_for(lambda: state in busy(), lambda: f"VotingBusy is {busy()}, not {state}", LIMIT)

    require(busy(), "Prometheus has no alert VotingBusy")
    wait_until("inactive")
    with load():
        wait_until("firing")
    wait_until("inactive")


def recovery() -> None:
    """The votes of the record are on a volume that is younger than they are."""
    require(RECORD.exists(), f"{RECORD} does not exist")
    with RECORD.open() as file:
        started = datetime.fromisoformat(json.loads(file.readline())["started"])
    created = get("persistentvolumeclaim", "postgres")["metadata"]["creationTimestamp"]
    require(datetime.fromisoformat(created) > started, "Postgres has its first volume still")
    run("voting", "load", f"--check={RECORD}")
    audit()


def busy() -> list[str]:
    """Return the states of the alerts that are named VotingBusy."""
    rules = json.loads(run("kubectl", "get", "--raw", f"{PROMETHEUS}/api/v1/rules"))
    groups = rules["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return [rule["state"] for rule in rules if rule["name"] == "VotingBusy"]


@contextmanager
def load() -> Iterator[list[str]]:
    """Cast 100 votes a second, and compare them with the result at the end.

    Yields the lines that the load has printed, which are complete at the end.
    """
    command = ("voting", "load", "--rate=100", "--check", *URLS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line)
                if re.search("[1-9][0-9,]* acknowledged", line):
                    break
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            lines += process.stdout
    require(process.returncode == 0, f"voting load: {''.join(lines[-1:])}")


def audit() -> Any:
    """Return what `voting audit` has found, if there is no problem."""
    return json.loads(kubectl("exec", "deployment/admin", "--", "voting", "audit", "--json"))


def require_pods(number: int, deployment: Any) -> None:
    ready = deployment.get("status", {}).get("readyReplicas", 0)
    name = deployment["metadata"]["name"]
    require(ready == number, f"pods of {name} that are ready: {ready} instead of {number}")


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise MissingError(otherwise)


def wait_for(condition: Callable[[], bool], otherwise: Callable[[], str], seconds: float) -> None:
    """Wait until a condition holds, or raise MissingError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise MissingError(otherwise())
        time.sleep(1)


def get(*words: str) -> Any:
    return json.loads(kubectl("get", *words, "--output=json"))


def kubectl(*words: str) -> str:
    return run("kubectl", "--namespace=voting", *words)


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(*command: str) -> str:
    """Return what a command has printed. Raises MissingError if its exit code is not 0."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise MissingError(f"the program {command[0]} is not installed") from None
    if done.returncode:
        raise MissingError(f"`{' '.join(command)}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


CHECKS = [
    *(compose, manifests, rollouts, autoscaling),
    *(network_policies, gitops, metrics, recovery),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Tells whether an exercise is done.")
    parser.add_argument("number", type=int, choices=range(1, len(CHECKS) + 1))
    try:
        CHECKS[parser.parse_args().number - 1]()
    except MissingError as missing:
        sys.exit(f"not done: {missing}")
    print("done")


if __name__ == "__main__":
    main()
