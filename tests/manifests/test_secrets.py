"""The Secrets contain what the pods read, in the form that the roles accept."""

import base64
import hashlib
import json
import pty
import shlex
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from voting.settings import ROLE_SETTINGS, MigrateSettings, Role, load_settings

from .rendering import DEPLOY, OVERLAYS, Resource, of, one, pod, render
from .wiring import each_secret_that_is_read_exists, secret_variables

*_, PRODUCTION = OVERLAYS
SCRIPT = DEPLOY / PRODUCTION / "make_secrets.py"

# The Secret whose DATABASE_URL is for each user of Postgres.
DATABASE_USERS = {
    "voting": "migrate",
    "voting_worker": "worker",
    "voting_result": "result",
    "voting_admin": "admin",
}


def make_secrets() -> list[Resource]:
    """Run the script of the production overlay, and encode its Secrets as the API server does."""
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    secrets = json.loads(done.stdout)["items"]
    for each in secrets:
        data = each.pop("stringData")
        each["data"] = {key: base64.b64encode(data[key].encode()).decode() for key in data}
    return secrets


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request) -> list[Resource]:
    rendered = render(request.param)
    return [*rendered, *make_secrets()] if request.param == PRODUCTION else rendered


def secret_data(resources: list[Resource], name: str) -> dict[str, str]:
    secret = one(resources, "Secret", name)
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def environment(resources: list[Resource], kind: str, name: str) -> dict[str, str]:
    """Return the variables of a container from its ConfigMaps and Secrets."""
    [container] = pod(one(resources, kind, name))["containers"]
    variables = {}
    for each in container["envFrom"]:
        variables |= one(resources, "ConfigMap", each["configMapRef"]["name"])["data"]
    variables |= {each["name"]: each["value"] for each in container["env"] if "value" in each}
    for variable in secret_variables(container):
        variables[variable] = secret_data(resources, name)[variable]
    return variables


def test_every_secret_that_is_read_exists(resources):
    assert list(each_secret_that_is_read_exists(resources)) == []


@pytest.mark.parametrize("role", list(Role))
def test_every_role_takes_its_settings(resources, role):
    assert load_settings(ROLE_SETTINGS[role], environment(resources, "Deployment", role))


def test_the_migration_takes_its_settings(resources):
    assert load_settings(MigrateSettings, environment(resources, "Job", "migrate"))


def test_the_urls_have_existing_services_users_and_passwords(resources):
    names = {each["metadata"]["name"] for each in of(resources, "Service")}
    names |= {f"{each['metadata']['name']}-rw" for each in of(resources, "Cluster")}
    for user, name in DATABASE_USERS.items():
        url = urlsplit(secret_data(resources, name)["DATABASE_URL"])
        assert (url.hostname in names, url.username, url.path) == (True, user, "/voting")
    redis = secret_data(resources, "redis")
    replicated = one(resources, "StatefulSet", "redis")["spec"]["replicas"] > 1
    servers = [f"redis-{number}:26379" for number in range(3)] if replicated else ["redis"]
    assert {each.partition(":")[0] for each in servers} <= names
    for name in ("vote", "worker", "admin"):
        url = urlsplit(secret_data(resources, name)["REDIS_URL"])
        assert url.scheme == ("redis+sentinel" if replicated else "redis")
        login, _, hosts = url.netloc.partition("@")
        assert (login.partition(":")[0], hosts.split(",")) == (name, servers)
        # Sentinels' name of the primary, or the number of the database.
        assert url.path == ("/voting" if replicated else "/0")
        for file in ("users.acl", "sentinel.acl") if replicated else ("users.acl",):
            assert is_password(url.password, redis[file], name)
    if replicated:
        for name, file in (
            ("replica", "replication.acl"),
            ("sentinel", "replication.acl"),
            ("sentinel", "sentinel.acl"),
        ):
            assert is_password(redis[f"{name}-password"], redis[file], name)


def is_password(password: str, acl: str, user: str) -> bool:
    """Whether an ACL file has this password for a user."""
    [rule] = [words[3] for words in map(shlex.split, acl.splitlines()) if words[1] == user]
    return rule in {f">{password}", f"#{hashlib.sha256(password.encode()).hexdigest()}"}


def test_an_unauthenticated_client_may_only_ping():
    """A server or a Sentinel."""
    for file in ("kind/voting/users.acl", "kind-replicated/voting/sentinel.acl"):
        [line] = [
            line
            for line in (DEPLOY / "overlays" / file).read_text().splitlines()
            if "nopass" in line or "user default" in line
        ]
        assert line == "user default on nopass -@all +ping"


def test_each_production_user_has_its_own_random_password():
    secrets = make_secrets()
    redis = secret_data(secrets, "redis")
    assert not any(">" in text for text in redis.values())
    passwords = [
        urlsplit(url).password
        for name in ("vote", "worker", "result", "admin", "migrate")
        for variable, url in secret_data(secrets, name).items()
        if variable in {"REDIS_URL", "DATABASE_URL"}
    ]
    passwords.append(secret_data(secrets, "keda")["password"])
    passwords += [redis[f"{name}-password"] for name in ("replica", "sentinel")]
    assert len(passwords) == 10
    assert len(set(passwords)) == len(passwords)
    assert min(map(len, passwords)) >= 48
    assert make_secrets() != secrets


def test_the_operators_find_their_secrets():
    resources = [*render(PRODUCTION), *make_secrets()]
    [cluster] = of(resources, "Cluster")
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    roles = cluster["spec"]["managed"]["roles"]
    logins = {initdb["owner"]: initdb["secret"]["name"]}
    logins |= {each["name"]: each["passwordSecret"]["name"] for each in roles}
    assert logins.keys() == DATABASE_USERS.keys()
    for user, name in logins.items():
        url = urlsplit(secret_data(resources, DATABASE_USERS[user])["DATABASE_URL"])
        assert secret_data(resources, name) == {"username": user, "password": url.password}
    created = " ".join(initdb["postInitSQL"])
    assert all(f"CREATE ROLE {each['name']} LOGIN" in created for each in roles)

    [authentication] = of(resources, "TriggerAuthentication")
    for each in authentication["spec"]["secretTargetRef"]:
        assert secret_data(resources, each["name"])[each["key"]]


def test_the_script_refuses_to_print_passwords_to_a_terminal():
    _, screen = pty.openpty()
    command = [sys.executable, SCRIPT]
    done = subprocess.run(command, stdout=screen, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"refusing to print passwords")
