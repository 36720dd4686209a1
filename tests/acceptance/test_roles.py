"""The roles as a container runs them: `python -m voting` with ROLE and its settings."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.app import RoleProcess
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

from voting import __version__

KEY = "0123456789abcdef" * 2
# Addresses at which no server listens.
AWAY = {
    "REDIS_URL": "unix:///nowhere/valkey.sock",
    "DATABASE_URL": "postgresql://postgres@/postgres?host=/nowhere",
    "SECRET_KEYS": KEY,
    "ADMIN_TOKEN": "none",
}
OPS_PATHS = ["/healthz", "/readyz", "/metrics", "/version"]


@pytest.fixture
def run() -> Iterator[Callable[..., RoleProcess]]:
    """Run a role with variables; ended with the test."""
    started: list[RoleProcess] = []

    def run(role: str, **environ: str) -> RoleProcess:
        started.append(RoleProcess(role, **environ))
        return started[-1]

    yield run
    for role in started:
        role.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[str], RoleProcess]]:
    """Return a role that runs without its servers; the tests of a module share it."""
    started: dict[str, RoleProcess] = {}

    def find(name: str) -> RoleProcess:
        if name not in started:
            started[name] = RoleProcess(name, **AWAY, COMMIT="c0ffee")
        return started[name].alive()

    yield find
    for role in started.values():
        role.close()


@pytest.fixture
def vote(servers, database_url, run) -> RoleProcess:
    """The vote role, ready, with a worker that counts."""
    urls = {role: servers.redis_url(role) for role in ("worker", "vote")}
    run("worker", REDIS_URL=urls["worker"], DATABASE_URL=database_url)
    return run("vote", REDIS_URL=urls["vote"], SECRET_KEYS=KEY).ready()


class VoteInFlight:
    """A vote whose head the role has read, and whose body is not sent yet."""

    body = b"round=1&choice=a"

    def __init__(self, role: RoleProcess) -> None:
        with role.page() as client:
            client.get("/")
            [(name, value)] = client.cookies.items()
            cookie = f"{name}={value}"
        self._connection = socket.create_connection(("127.0.0.1", role.port), timeout=DEADLINE)
        head = [
            "POST /vote HTTP/1.1",
            "Host: localhost",
            f"Cookie: {cookie}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(self.body)}",
            "Expect: 100-continue",  # the response shows that the role reads the body
        ]
        self._connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert b"100 Continue" in self._connection.recv(1000)

    def finish(self) -> str:
        """Send the body, and return the response up to the end of the connection."""
        self._connection.sendall(self.body)
        with self._connection, self._connection.makefile("rb") as response:
            return response.read().decode()

    def close(self) -> None:
        self._connection.close()


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


# Settings


@pytest.mark.parametrize(
    ("environ", "problems"),
    [
        (
            {"ROLE": "cook", "PORT": "many", "LOG_LEVEL": "loud"},
            ["ROLE: must be one of vote, result, worker, admin", "PORT: ", "LOG_LEVEL: "],
        ),
        (
            {
                "ROLE": "vote",
                "REDIS_URL": "http://:hidden@redis",
                "SECRET_KEYS": f"hidden,{KEY}",
                "VOTE_URL": "hidden",
                "PORT": "hidden",
            },
            ["REDIS_URL: ", "SECRET_KEYS: ", "VOTE_URL: ", "PORT: "],
        ),
        (
            {
                "ROLE": "worker",
                "REDIS_URL": "redis://redis",
                "DATABASE_URL": "postgresql://postgres",
                "OPTION_A": "hidden",
                "OPTION_B": "hidden",
                "OPTION_D": "hidden too",
            },
            ["OPTION_B: ", "OPTION_D: "],
        ),
    ],
)
def test_settings_are_refused_with_every_problem_and_no_value(run, environ, problems):
    role = run(environ.pop("ROLE"), **environ)
    assert role.ended() == 2
    first, *lines = role.output.splitlines()
    assert first == "Error: invalid settings:"
    assert len(lines) == len(problems)
    for problem in problems:
        assert any(line.startswith(f"  {problem}") for line in lines), role.output
    assert not any(value in role.output for value in ("hidden", "cook", "loud", "many"))


# Ports


@pytest.mark.parametrize(("role", "name"), [("vote", "PORT"), ("worker", "OPS_PORT")])
def test_a_port_on_which_a_program_listens_is_refused(run, role, name):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = run(role, **{**AWAY, name: port})
        assert refused.ended() == 1
    assert refused.output.startswith("Error: ")
    assert len(refused.output.splitlines()) == 1
    assert "ddress already in use" in refused.output


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu.invalid", "203.0.113.7"])
def test_a_host_that_is_not_this_machine_is_named(run, host):
    refused = run("worker", **{**AWAY, "HOST": host})
    assert refused.ended() == 1
    assert refused.output.startswith(f"Error: HOST is '{host}', where this machine can't listen: ")


@pytest.mark.parametrize("name", ["vote", "result", "worker", "admin"])
def test_a_role_without_its_servers_is_alive_and_not_ready(alone, name):
    role = alone(name)
    assert role.ask("/readyz").status_code == 503
    assert role.ask("/healthz").status_code == 200
    running = {"commit": "c0ffee", "role": name, "version": __version__}
    labels = ",".join(f'{key}="{value}"' for key, value in running.items())
    assert f"voting_build_info{{{labels}}} 1.0" in role.ask("/metrics").text
    assert role.ask("/version").json().items() >= running.items()


@pytest.mark.parametrize("name", ["vote", "result", "admin"])
def test_the_public_port_has_no_operations_routes(alone, name):
    with alone(name).page() as client:
        assert [client.get(path).status_code for path in OPS_PATHS] == [404] * len(OPS_PATHS)


def test_a_worker_listens_on_its_operations_port_only(alone):
    with alone("worker").page() as client, pytest.raises(httpx.ConnectError):
        client.get("/")


# Stopping


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("vote", signal.SIGTERM),
        ("vote", signal.SIGINT),
        ("result", signal.SIGTERM),
        ("worker", signal.SIGTERM),
        ("admin", signal.SIGTERM),
    ],
)
def test_an_idle_connection_does_not_delay_the_stop(run, name, number):
    role = run(name, **AWAY).alive()
    with role.page() as client, httpx.Client() as ops:
        ops.get(f"http://127.0.0.1:{role.ops_port}/healthz")
        if name != "worker":
            client.get("/")
        role.process.send_signal(number)
        assert role.process.wait(10) == 0
    assert "Traceback" not in role.output


def test_a_vote_in_flight_is_answered_while_readiness_is_off_and_the_role_is_alive(vote):
    flight = VoteInFlight(vote)
    vote.process.terminate()
    wait_for("readiness to be off", lambda: vote.responds("/readyz", 503))
    assert vote.ask("/healthz").status_code == 200
    # Until then the role answers every vote, and does not have to wait for this one.
    wait_for("its port to be closed", lambda: not is_open(vote.port))
    response = flight.finish()
    assert response.startswith("HTTP/1.1 303")
    assert "connection: close" in response.lower()
    assert vote.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_role_at_once(vote, number):
    flight = VoteInFlight(vote)
    vote.process.terminate()
    wait_for("readiness to be off", lambda: vote.responds("/readyz", 503))
    vote.process.send_signal(number)
    assert vote.process.wait(DEADLINE) == 128 + number
    flight.close()


def test_a_client_that_never_finishes_does_not_delay_the_stop(vote):
    flight = VoteInFlight(vote)
    vote.process.terminate()
    assert vote.process.wait(DEADLINE) == 0
    flight.close()


def test_a_migration_without_a_database_fails_with_one_line():
    migration = subprocess.run(
        [sys.executable, "-P", "-m", "voting", "migrate"],
        env={**ENVIRON, "DATABASE_URL": AWAY["DATABASE_URL"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert migration.returncode == 1
    assert migration.stderr.startswith("Error: the database can't be migrated:")
    assert "Traceback" not in migration.stderr
