"""The manifests in docs/exercises: those that a page begins with, and those of its solution."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .network import allowed
from .policies import autoscalers
from .rendering import DEPLOY, Resource, is_named, kustomize, of, one, pod, render
from .test_schemas import CUSTOM, VERSIONS, validate

EXERCISES = DEPLOY.parent / "docs/exercises"
KIND = "overlays/kind"
FILE = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """Return the text of each file that a page shows, by its name."""
    pages = sorted(EXERCISES.glob("*.md"))
    return {name: text for page in pages for name, text in FILE.findall(page.read_text())}


def solution(name: str) -> list[Resource]:
    return list(yaml.safe_load_all(files()[name]))


def patched(*patches: Path | str) -> Resource:
    """Return the Deployment `vote` of the overlay after patches, one after the other."""
    vote = one(render(KIND), "Deployment", "vote")
    for patch in patches:
        text = patch.read_text() if isinstance(patch, Path) else patch
        # As on the pages, but without a cluster.
        command = [
            "kubectl",
            "patch",
            "--local",
            "--filename=-",
            "--output=json",
            "--type=strategic",
        ]
        done = subprocess.run(
            [*command, f"--patch={text}"],
            input=yaml.dump(vote),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        vote = yaml.safe_load(done.stdout)
    return vote


def without_hash(name: str) -> str:
    return name.removesuffix("-HASH")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> list[Resource]:
    """What exercise 7 begins with: the commands of its page, up to the first for a cluster."""
    root = tmp_path_factory.mktemp("exercise") / "voting"
    (root / "docs").mkdir(parents=True)
    (root / "mine").mkdir()
    (root / "deploy").symlink_to(DEPLOY)
    shutil.copytree(EXERCISES, root / "docs/exercises")
    page = (EXERCISES / "7-metrics.md").read_text()
    commands = re.findall(r"^\$ ((?:rm|cp|sed) .*)$", page, re.MULTILINE)
    assert [each.split()[0] for each in commands] == ["rm", "cp", "sed"]
    for command in commands:
        subprocess.run(["bash", "-c", command], cwd=root, check=True)
    return kustomize(root / "mine/prometheus")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_of_the_exercises_match_their_schemas(version: str, prometheus):
    begin = yaml.safe_load_all((EXERCISES / "4-begin.yaml").read_text())
    solutions = (solution(f"mine/{name}.yaml") for name in ("vote", "worker", "postgres"))
    for resource in [*begin, *prometheus, *(each for found in solutions for each in found)]:
        if resource["kind"] not in CUSTOM:
            validate(resource, version)


def test_the_deployment_of_exercise_2_is_found_and_configured_like_the_one_of_the_base():
    resources = render(KIND)
    [vote] = solution("mine/vote.yaml")
    original = one(resources, "Deployment", "vote")
    [container] = pod(vote)["containers"]
    [expected] = pod(original)["containers"]
    service = one(resources, "Service", "vote")
    labels = vote["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["targetPort"] in {
        each["name"] for each in container["ports"]
    }
    assert container["image"] == expected["image"]
    # The Secret has the two variables that the original takes from it by name.
    [secret, settings] = container["envFrom"]
    secret = one(resources, "Secret", without_hash(secret["secretRef"]["name"]))
    assert set(secret["data"]) == {"REDIS_URL", "SECRET_KEYS"}
    assert one(resources, "ConfigMap", without_hash(settings["configMapRef"]["name"]))
    [role] = container["env"]
    assert role in expected["env"]


def test_exercise_3_takes_away_what_its_solution_brings_back():
    original = one(render(KIND), "Deployment", "vote")
    begun = patched(EXERCISES / "3-begin.yaml")
    [container] = pod(begun)["containers"]
    assert not container.keys() & {"startupProbe", "readinessProbe", "lifecycle"}
    assert begun["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": "100%", "maxSurge": 0}
    solved = patched(EXERCISES / "3-begin.yaml", files()["mine/rollout.yaml"])
    [container] = pod(solved)["containers"]
    [expected] = pod(original)["containers"]
    assert solved["spec"]["strategy"] == original["spec"]["strategy"]
    assert container["lifecycle"] == expected["lifecycle"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == expected[probe]["httpGet"]


def test_exercise_4_scales_by_the_same_backlog_as_the_component():
    [scaled, _] = solution("mine/worker.yaml")
    assert autoscalers([scaled]) == {"worker": (1, 4)}
    [trigger] = scaled["spec"]["triggers"]
    [expected] = one(render("components/autoscaling"), "ScaledObject", "worker")["spec"]["triggers"]
    given = {"lagCount": "50000", "databaseIndex": "0"}
    assert trigger["metadata"] | given == expected["metadata"]
    assert trigger["authenticationRef"] == expected["authenticationRef"]


def test_exercise_4_lets_keda_connect_to_redis():
    begin = list(yaml.safe_load_all((EXERCISES / "4-begin.yaml").read_text()))
    [secret, policy] = begin
    [_, authentication] = solution("mine/worker.yaml")
    references = authentication["spec"]["secretTargetRef"]
    assert {each["key"] for each in references} == secret["stringData"].keys()
    added = allowed([*render(KIND), policy], "Ingress") - allowed(render(KIND), "Ingress")
    assert added == {"keda → redis 6379/TCP"}


def test_the_policy_of_exercise_5_allows_what_that_of_the_component_allows():
    others = [each for each in render(KIND) if each["kind"] != "NetworkPolicy"]
    [policy] = solution("mine/postgres.yaml")

    def to_postgres(resources: list[Resource]) -> set[str]:
        return {each for each in allowed(resources, "Ingress") if "→ postgres " in each}

    assert to_postgres([*others, policy]) == to_postgres(render(KIND))


def test_exercise_6_applies_the_overlay_of_the_other_exercises():
    application = yaml.safe_load((EXERCISES / "6-begin.yaml").read_text())
    assert (DEPLOY.parent / application["spec"]["source"]["path"]).samefile(DEPLOY / KIND)


def test_prometheus_reads_the_alerts_and_may_connect_to_the_pods(prometheus):
    config = one(prometheus, "ConfigMap", "prometheus")
    [volume, _] = pod(one(prometheus, "Deployment", "prometheus"))["volumes"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert is_named(config["metadata"]["name"], "prometheus")
    read = yaml.safe_load(config["data"]["prometheus.yml"])["rule_files"]
    assert config["data"].keys() == {"prometheus.yml", *read}
    rules = yaml.safe_load(config["data"]["voting.yaml"])
    expected = yaml.safe_load((DEPLOY / "components/monitoring/alerts.yaml").read_text())
    assert rules == expected["spec"]
    policies = of(prometheus, "NetworkPolicy")
    added = allowed([*render(KIND), *policies], "Ingress") - allowed(render(KIND), "Ingress")
    roles = {"vote", "result", "worker", "admin"}
    assert {f"prometheus → {role} 9090/TCP" for role in roles} <= added
    assert all(each.startswith("prometheus → ") for each in added)


def test_the_alert_of_exercise_7_is_a_rule_that_prometheus_can_load():
    [file] = solution("mine/prometheus/mine.yaml")
    [rule] = [rule for group in file["groups"] for rule in group["rules"]]
    assert rule["alert"] == "VotingBusy"
    assert "voting_ballots_accepted_total" in rule["expr"]
