"""What is in the image, and that each role runs from it. `nox -s image` builds it first."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from voting import __version__
from voting.settings import Role

ROOT = Path(__file__).parent.parent.parent

ENGINE, IMAGE = os.environ.get("VOTING_ENGINE"), os.environ.get("VOTING_IMAGE")

pytestmark = pytest.mark.skipif(IMAGE is None, reason="`nox -s image` builds one first")

# As the pods are: nothing can be written, nothing can be gained, nobody is there.
CONFINED = (
    *("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    "--network=none",
)

SERVERS = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://127.0.0.1:1/voting",
    "SECRET_KEYS": "0123456789abcdef",
}

# Runs inside: starts the role, asks it how it is, and stops it.
VISIT = """
import json, subprocess, time, urllib.request
role = subprocess.Popen(["voting"])
def ask(path):
    return urllib.request.urlopen("http://127.0.0.1:9090" + path).read().decode()
while True:
    assert role.poll() is None
    try:
        alive = ask("/healthz")
        break
    except OSError:
        time.sleep(0.05)
print(json.dumps({"alive": alive, "version": json.loads(ask("/version"))}))
role.terminate()
raise SystemExit(role.wait())
"""

# Runs inside: what is installed, and whether anything can be written.
LOOK = """
import importlib.metadata, json, os, shutil
def writable(path):
    try:
        open(path, "w")
    except OSError as error:
        return error.strerror
print(json.dumps({
    "distributions": sorted({each.name.lower() for each in importlib.metadata.distributions()}),
    "user": os.getuid(),
    "written": writable("/app/x"),
    "tools": [each for each in ("pip", "pip3", "gcc", "uv", "postgres", "valkey-server")
              if shutil.which(each)],
}))
"""


def run(*arguments: str, entrypoint: str = "voting", **environ: str):
    options = [f"--env={name}={value}" for name, value in environ.items()]
    if ENGINE == "buildah":  # has no read-only root; the other two have
        container = subprocess.run(
            ["buildah", "from", IMAGE], capture_output=True, text=True, check=True
        ).stdout.strip()
        start = ["buildah", "run", "--isolation=chroot", *options, container, "--", entrypoint]
        try:
            done = execute(*start, *arguments)
            # Its own words about the exit code.
            done.stderr = re.sub(
                r"^(subprocess exited|Error: exit).*\n", "", done.stderr, flags=re.MULTILINE
            )
            return done
        finally:
            subprocess.run(["buildah", "rm", container], capture_output=True, check=True)
    start = [ENGINE, "run", *CONFINED, *options, f"--entrypoint={entrypoint}", IMAGE]
    return execute(*start, *arguments)


def execute(*command: str):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture(scope="module")
def look():
    looked = run("-c", LOOK, entrypoint="python")
    assert looked.returncode == 0, looked.stderr
    return json.loads(looked.stdout)


def test_the_image_runs_as_nobody_and_can_not_be_written_to(look):
    reason = "Permission denied" if ENGINE == "buildah" else "Read-only file system"
    assert (look["user"], look["written"]) == (65532, reason)


def test_the_image_has_what_the_lock_file_names_and_the_package(look):
    lock = (ROOT / "requirements/app.txt").read_text()
    named = {match.lower() for match in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    found = {each.replace("_", "-").replace(".", "-") for each in look["distributions"]}
    assert found - named == {"voting"}
    # Those of other systems and other Pythons only.
    assert named - found <= {"async-timeout", "colorama", "tzdata"}


def test_the_image_has_no_tools_and_no_servers(look):
    assert look["tools"] == []


def test_it_says_its_version():
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("role", list(Role))
def test_a_role_without_settings_says_what_it_needs(role):
    refused = run(ROLE=role)
    assert refused.returncode == 2
    named = {line.strip().partition(":")[0] for line in refused.stderr.splitlines()[1:]}
    assert (
        named
        == {
            Role.VOTE: {"REDIS_URL", "SECRET_KEYS"},
            Role.RESULT: {"DATABASE_URL"},
            Role.WORKER: {"REDIS_URL", "DATABASE_URL"},
        }[role]
    )


@pytest.mark.parametrize("role", list(Role))
def test_a_role_runs_is_alive_and_ends_when_asked(role):
    visit = run("-c", VISIT, entrypoint="python", ROLE=role, **SERVERS)
    assert visit.returncode == 0, visit.stderr
    said = json.loads(visit.stdout)
    assert said["alive"] == "alive\n"
    assert said["version"].items() >= {"role": role, "version": __version__}.items()
    assert said["version"]["commit"] == os.environ["VOTING_COMMIT"]


def test_every_command_is_there():
    told = run("--help")
    assert told.returncode == 0
    for name in ("migrate", "wait", "audit", "replay"):
        assert f"  {name} " in told.stdout


def test_the_migrations_are_there():
    failed = run("migrate", DATABASE_URL=SERVERS["DATABASE_URL"])
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: the database can't be migrated: ")


def test_without_its_servers_voting_up_says_so_in_one_line():
    refused = run("up", "--data=/app")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
