"""Rules for the workflows that no linter checks."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from support.docs import blocks, sessions

from voting import __version__

ROOT = Path(__file__).parent.parent.parent
TEXTS = {each.stem: each.read_text() for each in (ROOT / ".github/workflows").iterdir()}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {
    f"{name}/{job}": found
    for name, workflow in WORKFLOWS.items()
    for job, found in workflow["jobs"].items()
}

# The permissions of each job that may do more than read.
WRITERS = {
    "release/image": {"contents": "read"}
    | dict.fromkeys(("packages", "id-token", "attestations"), "write"),
    "release/manifests": dict.fromkeys(("contents", "packages", "id-token"), "write"),
}


def unpinned(text: str) -> list[str]:
    """Find actions without a commit and a version; `$/` is this repository at the same commit."""
    used = re.findall(r"^ *(?:- )?uses: *(.*)", text, re.MULTILINE)
    pinned = re.compile(r"\$/.*|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    return [each for each in used if not pinned.fullmatch(each)]


@pytest.mark.parametrize("name", TEXTS)
def test_every_action_is_named_by_its_commit_and_version(name: str):
    assert unpinned(TEXTS[name]) == []


@pytest.mark.parametrize(
    "used",
    [
        "actions/checkout@v7",
        "actions/checkout@main # v7.0.1",
        f"actions/checkout@{'0' * 39} # v7.0.1",
        f"actions/checkout@{'0' * 40}",
        f"actions/checkout@{'0' * 40} # v7",
        "docker://alpine:3",
    ],
)
def test_an_unpinned_action_is_found(used: str):
    assert unpinned(f"steps:\n  - uses: {used}\n") == [used]


def test_only_the_jobs_of_a_release_may_write():
    assert all(each["permissions"] == {"contents": "read"} for each in WORKFLOWS.values())
    permissions = {name: job.get("permissions") for name, job in JOBS.items()}
    assert {name: each for name, each in permissions.items() if each is not None} == WRITERS


def test_nothing_is_released_unchecked_or_by_a_fork():
    jobs = WORKFLOWS["release"]["jobs"]
    assert jobs["check"]["uses"] == "$/.github/workflows/check.yml"
    assert set(jobs["image"]["needs"]) == {"version", "check"}
    assert jobs["check"]["needs"] == "version"
    assert jobs["manifests"]["needs"] == "image"
    assert jobs["version"]["if"] == "${{ !github.event.repository.fork }}"
    assert not any("if" in jobs[name] for name in ("check", "image", "manifests"))
    assert all(jobs[name]["environment"] == "release" for name in ("image", "manifests"))


def test_every_session_is_run():
    named = set(" ".join(re.findall(r"nox -s ([\w ]+)", TEXTS["check"])).split())
    by_default = {name for name, runs in sessions().items() if runs}
    # No workflow runs these: they write files, measure, or repeat a part of the checks.
    others = {"lock", "screenshots", "translations", "bench", "quick"}
    assert named == sessions().keys() - by_default - others


def test_all_checks_are_run_with_the_command_of_the_readme():
    commands = [each for block in blocks(Path("README.md")) for each in block.commands]
    [command] = [each for each in commands if each.endswith("bin/nox")]
    assert any(step.get("run") == command for step in JOBS["check/nox"]["steps"])
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == command


def test_the_first_and_the_last_python_are_checked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert JOBS["check/nox"]["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]


def test_the_version_can_be_a_tag_that_names_the_job_of_a_migration():
    assert re.fullmatch(r"\d+\.\d+\.\d[a-z0-9]*", __version__)


def test_the_image_is_built_with_arguments_that_the_dockerfile_has():
    job = JOBS["release/image"]
    [build] = [each["with"] for each in job["steps"] if "build-push-action" in each.get("uses", "")]
    arguments = set(re.findall(r"^(\w+)=", build["build-args"], re.MULTILINE))
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert arguments == set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE)) - {"BASE"}
    for variant in job["strategy"]["matrix"]["include"]:
        assert (ROOT / f"requirements/{variant['requirements']}.txt").exists()
