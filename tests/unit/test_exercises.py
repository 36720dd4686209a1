"""The checks of docs/exercises, with stand-ins for the programs that need a cluster."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
EXERCISES = ROOT / "docs/exercises"
SCRIPT = EXERCISES / "check.py"
PROGRAMS = ("kubectl", "docker", "git", "voting")

# Answers with the exit code and the output of the first pattern that matches its command line. A
# load without an end prints what a real one prints, and leaves a file while it runs, on which the
# answer may depend.
STANDIN = """#!{python} -S
import json, pathlib, re, signal, sys
folder = pathlib.Path(sys.argv[0]).parent
line = " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])
answers = json.loads((folder / "answers.json").read_text())
crowd = folder / "crowd"
if "--rate" in line:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    print("0 s, 0/s: 0 acknowledged, 0 refused, 0 unknown", flush=True)
    print("1 s, 100/s: 1,234 acknowledged, 0 refused, 0 unknown", flush=True)
    crowd.touch()
    signal.sigwait([signal.SIGINT])
    crowd.unlink()
for pattern, (code, output) in answers.items():
    if re.search(pattern, line):
        print(output["crowd" if crowd.exists() else "none"] if isinstance(output, dict) else output)
        sys.exit(code)
sys.exit("unexpected: " + line)
"""

ACKNOWLEDGED = "9 s, 100/s: 900 acknowledged, 0 refused, 0 unknown, p50 3 ms\nexact: a 450, b 450"
LOAD = {r"^voting load --votes=300 --check": (0, "exact: a 150, b 150")}
AUDIT = {r"exec deployment/admin -- voting audit --json$": (0, '{"backlog": 0}')}
Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], None]:
    """Have the programs give these answers, in an empty working directory."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in PROGRAMS:
        (folder / program).write_text(STANDIN.replace("{python}", sys.executable))
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)

    def answer(answers: Answers) -> None:
        (folder / "answers.json").write_text(json.dumps(answers))

    return answer


@pytest.fixture
def check(answer, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Answers], str]:
    """Run the check of an exercise with answers; returns what is missing, or "done"."""
    spec = importlib.util.spec_from_file_location("check", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    # Seconds. Here nothing changes while a check waits.
    monkeypatch.setattr(script, "LIMIT", 1)
    monkeypatch.setattr(script, "GRACE", 0)

    def check(number: int, answers: Answers) -> str:
        answer(answers)
        try:
            script.CHECKS[number - 1]()
        except script.MissingError as missing:
            return str(missing)
        return "done"

    return check


def deployment(number: int, ready: int, **container: Any) -> str:
    """Return a Deployment `vote` with so many pods, of which some are ready."""
    spec = {"replicas": number, "template": {"spec": {"containers": [container]}}}
    status = {"readyReplicas": ready} if ready else {}
    return json.dumps({"metadata": {"name": "vote"}, "spec": spec, "status": status})


def container_of_the_solution() -> dict[str, Any]:
    page = (EXERCISES / "2-manifests.md").read_text()
    [text] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [container] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return container


def autoscaler(kind: str = "External", *, least: int = 1, scaled: bool = True) -> str:
    spec = {
        "scaleTargetRef": {"name": "worker"},
        "minReplicas": least,
        "maxReplicas": 4,
        "metrics": [{"type": kind}],
    }
    status = {"lastScaleTime": "2026-01-01T10:00:00Z"} if scaled else {}
    return json.dumps({"items": [{"spec": spec, "status": status}]})


def application(revision: str) -> str:
    return json.dumps({"status": {"sync": {"status": "Synced", "revision": revision}}})


def rules(state: str, name: str = "VotingBusy") -> str:
    found = [{"name": "VotingNoVote", "state": "inactive"}, {"name": name, "state": state}]
    return json.dumps({"data": {"groups": [{"rules": found}]}})


def claim(created: str) -> str:
    return json.dumps({"metadata": {"creationTimestamp": created}})


COMPOSE = {
    r"^docker compose up --detach$": (0, ""),
    r"^docker compose ps .* worker$": (0, "1f0e\n2d3c"),
    **LOAD,
    r"^docker compose exec -T admin voting audit$": (0, "no problems"),
}
VOTE = r"^kubectl --namespace=voting get deployment vote --output=json$"
MANIFESTS = {VOTE: (0, deployment(3, 3, **container_of_the_solution())), **LOAD}
ROLLOUTS = {
    r"get pods --selector=app.kubernetes.io/component=vote": (0, "pod/vote-1\npod/vote-2"),
    r"rollout restart deployment/vote$": (0, ""),
    r"rollout status --timeout=\d+s deployment/vote$": (0, ""),
    r"wait --for=delete --timeout=\d+s pod/vote-1 pod/vote-2$": (0, ""),
    r"^voting load --rate=100 --check": (0, ACKNOWLEDGED),
}
HPA = r"^kubectl --namespace=voting get horizontalpodautoscalers"
AUTOSCALING = {HPA: (0, autoscaler()), **AUDIT}
REACHED = r"exec deployment/(worker|result|admin) -- python"
POLICIES = {
    REACHED: (0, ""),
    r"exec deployment/vote -- python": (1, ""),
    r"exec statefulset/redis -- timeout 4 bash": (124, ""),
    **LOAD,
}
ARGO = r"^kubectl --namespace=argocd get application voting"
GITOPS = {
    r"^git rev-parse HEAD": (0, "c0ffee"),
    ARGO: (0, application("c0ffee")),
    VOTE: (0, deployment(3, 3)),
    r"scale deployment/vote --replicas=1$": (0, ""),
    r"wait --for=jsonpath={.spec.replicas}=3 --timeout=\d+s deployment/vote$": (0, ""),
}
RULES = (
    r"^kubectl get --raw /api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/rules$"
)
METRICS = {
    RULES: (0, {"none": rules("inactive"), "crowd": rules("firing")}),
    r"^voting load --rate=100 --check": (0, ACKNOWLEDGED),
}
CLAIM = r"get persistentvolumeclaim postgres"
RECOVERY = {
    CLAIM: (0, claim("2026-01-01T10:20:00Z")),
    r"^voting load --check=mine/votes.record$": (0, "exact: a 450, b 450"),
    **AUDIT,
}
DONE = dict(
    enumerate(
        (COMPOSE, MANIFESTS, ROLLOUTS, AUTOSCALING, POLICIES, GITOPS, METRICS, RECOVERY), start=1
    )
)


@pytest.fixture
def record(tmp_path: Path) -> None:
    """The record of exercise 8, which began at ten o'clock."""
    (tmp_path / "mine").mkdir()
    header = {"version": "1", "started": "2026-01-01T10:00:00+00:00"}
    (tmp_path / "mine/votes.record").write_text(json.dumps(header) + "\n")


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize("number", DONE)
def test_a_done_exercise_is_done(check, number):
    assert check(number, DONE[number]) == "done"


# What differs from a done exercise, and what the check says of it.
NOT_DONE = [
    # The plain states.
    (1, {r"^docker compose ps .* worker$": (0, "1f0e")}, "workers that run: 1 instead of 2"),
    (2, {VOTE: (1, "Error from server (NotFound)")}, "NotFound"),
    (
        3,
        {r"--rate": (0, ACKNOWLEDGED.replace("0 refused, 0", "1,020 refused, 3"))},
        "votes refused: 1,020, unknown: 3",
    ),
    (4, {HPA: (0, '{"items": []}')}, "nothing scales the workers"),
    (5, {r"exec (deployment|statefulset)/": (0, "")}, "reached by .*'deployment/vote'"),
    (6, {VOTE: (0, deployment(2, 2))}, "ready: 2 instead of 3"),
    (7, {RULES: (0, rules("inactive", "Other"))}, "Prometheus has no alert VotingBusy"),
    (8, {CLAIM: (0, claim("2026-01-01T09:50:00Z"))}, "Postgres has its first volume still"),
    # Half done.
    (1, {r"^docker compose exec": (1, "the tally is not the sum")}, "the tally is not the sum"),
    (2, {VOTE: (0, deployment(3, 0, **container_of_the_solution()))}, "ready: 0 instead of 3"),
    (2, {VOTE: (0, deployment(3, 3))}, "does not request /readyz"),
    (2, {r"^voting load": (1, "differs: a 149 instead of 150")}, "differs: a 149"),
    (
        3,
        {r"--rate": (1, "9 s: 9 acknowledged, 0 refused, 0 unknown\ndiffers: a 1")},
        "differs: a 1",
    ),
    (3, {r"rollout status": (1, "timed out")}, "timed out"),
    (4, {HPA: (0, autoscaler("Resource"))}, "not by the backlog"),
    (4, {HPA: (0, autoscaler(least=2))}, "one worker must run"),
    (4, {HPA: (0, autoscaler(scaled=False))}, "make a backlog"),
    (4, {r"voting audit": (0, '{"backlog": 9}')}, "ballots still wait"),
    (5, {r"statefulset/redis": (0, "")}, "'statefulset/redis'"),
    (
        5,
        {r"exec deployment/result": (1, "")},
        "reached by .'deployment/admin', 'deployment/worker'",
    ),
    (5, {r"^voting load": (1, "differs: votes 0")}, "differs: votes 0"),
    (6, {ARGO: (0, application("bead"))}, "Argo CD has bead, not c0ffee"),
    (6, {ARGO: (0, "{}")}, "Argo CD has None"),
    (6, {r"wait --for=jsonpath": (1, "timed out waiting")}, "timed out waiting"),
    (7, {RULES: (0, rules("inactive"))}, "VotingBusy is .'inactive'., not firing"),
    (7, {RULES: (0, rules("firing"))}, "VotingBusy is .'firing'., not inactive"),
    (8, {r"^voting load": (1, "differs: a 436 instead of 1,098")}, "differs: a 436"),
    (8, {r"voting audit": (1, "counted ballots of voters who have no vote: 9")}, "no vote: 9"),
]


@pytest.mark.usefixtures("record")
@pytest.mark.parametrize(("number", "changes", "says"), NOT_DONE)
def test_what_is_missing_is_said(check, number, changes, says):
    assert re.search(says, check(number, {**changes, **DONE[number], **changes}))


def test_recovery_needs_the_record(check):
    assert check(8, RECOVERY) == "mine/votes.record does not exist"


def test_the_exit_code_says_done(answer):
    def run() -> tuple[int, str]:
        command = (sys.executable, SCRIPT, "6")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    answer(GITOPS)
    assert run() == (0, "done\n")
    answer({**GITOPS, VOTE: (0, deployment(2, 2))})
    assert run() == (1, "not done: pods of vote that are ready: 2 instead of 3\n")
    answer({})
    code, output = run()
    assert (code, output.partition(":")[0]) == (1, "not done")


def test_there_is_a_page_for_each_check():
    pages = sorted(EXERCISES.glob("[0-9]-*.md"))
    assert [int(page.name[0]) for page in pages] == list(DONE)
    for number, page in zip(DONE, pages, strict=True):
        last = re.findall(r"^\$ (.*)$", page.read_text(), re.MULTILINE)[-1]
        assert last == f"python docs/exercises/check.py {number}"
