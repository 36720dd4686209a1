"""The content of the image, and the roles that run from it. `nox -s image` builds it first."""

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

# Confined as in a pod, and without a network.
CONFINED = (
    *("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    "--network=none",
)

SERVERS = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://127.0.0.1:1/voting",
    "SECRET_KEYS": "0123456789abcdef",
    "ADMIN_TOKEN": "none",
}

# Runs inside: starts the role, requests its operations port, and stops it.
REQUEST = """
import json, subprocess, time, urllib.request
role = subprocess.Popen(["voting"])
def get(path):
    return urllib.request.urlopen("http://127.0.0.1:9090" + path).read().decode()
while True:
    assert role.poll() is None
    try:
        alive = get("/healthz")
        break
    except OSError:
        time.sleep(0.05)
print(json.dumps({"alive": alive, "version": json.loads(get("/version"))}))
role.terminate()
raise SystemExit(role.wait())
"""

# Runs inside: prints what is installed, and why the file system can't be written to.
INSPECT = """
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
            # Without buildah's own lines about the exit code.
            done.stderr = re.sub(r"(?m)^(subprocess exited|Error: exit).*\n", "", done.stderr)
            return done
        finally:
            subprocess.run(["buildah", "rm", container], capture_output=True, check=True)
    start = [ENGINE, "run", *CONFINED, *options, f"--entrypoint={entrypoint}", IMAGE]
    return execute(*start, *arguments)


def execute(*command: str):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture(scope="module")
def content():
    done = run("-c", INSPECT, entrypoint="python")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_user_is_unprivileged_and_the_file_system_read_only(content):
    reason = "Permission denied" if ENGINE == "buildah" else "Read-only file system"
    assert (content["user"], content["written"]) == (65532, reason)


def test_the_image_has_the_locked_packages_and_the_app(content):
    lock = (ROOT / "requirements/app.txt").read_text()
    named = {match.lower() for match in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    found = {each.replace("_", "-").replace(".", "-") for each in content["distributions"]}
    assert found - named == {"voting"}
    # For other systems and other Pythons.
    assert named - found <= {"async-timeout", "colorama", "tzdata"}


def test_the_image_has_no_tools_and_no_servers(content):
    assert content["tools"] == []


def test_the_labels_say_which_version_of_what_this_is():
    inspect = {
        "docker": ("image", "inspect", "--format={{json .Config.Labels}}"),
        "podman": ("image", "inspect", "--format={{json .Config.Labels}}"),
        "buildah": ("inspect", "--type=image", "--format={{json .OCIv1.Config.Labels}}"),
    }[ENGINE]
    found = json.loads(execute(ENGINE, *inspect, IMAGE).stdout)
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): found[name] for name in found if prefix in name}
    assert labels.pop("description").startswith("A voting app: ")
    assert labels.items() >= {
        ("title", "voting"),
        ("licenses", "Apache-2.0"),
        ("version", __version__),
        ("revision", os.environ["VOTING_COMMIT"]),
    }


def test_the_command_prints_its_version():
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("role", list(Role))
def test_a_role_without_settings_lists_the_required_ones(role):
    refused = run(ROLE=role)
    assert refused.returncode == 2
    required = {
        Role.VOTE: {"REDIS_URL", "SECRET_KEYS"},
        Role.RESULT: {"DATABASE_URL"},
        Role.WORKER: {"REDIS_URL", "DATABASE_URL"},
        Role.ADMIN: {"REDIS_URL", "DATABASE_URL", "ADMIN_TOKEN"},
    }
    listed = {line.strip().partition(":")[0] for line in refused.stderr.splitlines()[1:]}
    assert listed == required[role]


@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_alive_and_stops_at_sigterm(role):
    done = run("-c", REQUEST, entrypoint="python", ROLE=role, **SERVERS)
    assert done.returncode == 0, done.stderr
    responses = json.loads(done.stdout)
    assert responses["alive"] == "alive\n"
    expected = {"role": role, "version": __version__, "commit": os.environ["VOTING_COMMIT"]}
    assert responses["version"].items() >= expected.items()


def test_the_image_has_the_migrations():
    failed = run("migrate", DATABASE_URL=SERVERS["DATABASE_URL"])
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: the database can't be migrated: ")


def test_the_image_has_the_load_generator():
    failed = run("load", "--check", VOTE_URL="http://127.0.0.1:1", RESULT_URL="http://127.0.0.1:1")
    assert failed.returncode == 1
    assert failed.stderr == "Error: no response from http://127.0.0.1:1/: Connection refused\n"


def test_voting_up_without_its_servers_fails_with_one_line():
    refused = run("up", "--data=/app")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
