"""`compose.yaml` as a user runs it: vote, lead, down, and up again with what was counted."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from support.app import post_vote
from support.environ import ENVIRON
from support.wait import wait_for

from e2e.operator_page import OperatorPage
from voting.local.address import resolve

ROOT = Path(__file__).parent.parent.parent

ENGINE, IMAGE = os.environ.get("VOTING_ENGINE"), os.environ.get("VOTING_IMAGE")

# buildah runs no compose file.
COMPOSE = {"docker": ("docker", "compose"), "podman": ("podman-compose",)}

pytestmark = [
    pytest.mark.skipif(IMAGE is None, reason="`nox -s image` builds one first"),
    pytest.mark.skipif(ENGINE == "buildah", reason="docker or podman is required"),
    pytest.mark.timeout(600),  # the images of the servers may have to be pulled
]

SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def free_ports(number: int) -> list[int]:
    """Return ports of loopback that no program listens on."""
    with ExitStack() as bound:
        servers = [
            bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [each.getsockname()[1] for each in servers]


class Compose:
    """The project `voting-test`, beside one that the user of the tests may have."""

    def __init__(self) -> None:
        ports = dict(zip(("vote", "result", "admin"), free_ports(3), strict=True))
        self.vote, self.result, self.admin = (f"http://127.0.0.1:{port}" for port in ports.values())
        self._environ = {
            **ENVIRON,
            **{f"{page.upper()}_PORT": str(port) for page, port in ports.items()},
            "VOTING_IMAGE": IMAGE,
        }

    def __call__(self, *words: str) -> str:
        command = [*COMPOSE[ENGINE], "--project-name=voting-test", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self._environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> None:
        # podman needs systemd to run health checks by itself.
        self("up", "--detach", *(["--wait"] if ENGINE == "docker" else []))
        wait_for("the page of voters", lambda: self.answers(self.vote))
        wait_for("the result", lambda: self.answers(self.result))
        wait_for("the admin page", lambda: self.answers(self.admin))

    def answers(self, url: str) -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    def tally(self) -> dict[str, int]:
        poll = httpx.get(f"{self.result}/api/tally").raise_for_status().json()
        return {each["name"]: each["votes"] for each in poll["options"]}

    def phase(self) -> str:
        return httpx.get(f"{self.result}/api/tally").raise_for_status().json()["phase"]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    compose = Compose()
    compose("down", "--volumes")
    try:
        compose.up()
        yield compose
        print(compose("logs"))  # noqa: T201 - pytest shows it with a failure
    finally:
        compose("down", "--volumes")


def test_votes_are_counted_and_still_there_after_down_and_up(compose):
    cookies = []
    for choice in "abb":
        with httpx.Client(base_url=compose.vote) as voter:
            assert post_vote(voter, choice).status_code == 303
            cookies.append(voter.cookies)
    wait_for("the votes to be counted", lambda: compose.tally() == {"Cats": 1, "Dogs": 2})

    compose("down")
    assert not compose.answers(compose.vote)
    compose.up()
    assert compose.tally() == {"Cats": 1, "Dogs": 2}
    # It is the same voter, whose last vote counts.
    with httpx.Client(base_url=compose.vote, cookies=cookies[0]) as voter:
        assert post_vote(voter, "b").status_code == 303
    wait_for("the vote to be counted", lambda: compose.tally() == {"Cats": 0, "Dogs": 3})


def test_an_operator_of_this_machine_leads_the_vote(compose):
    with OperatorPage(compose.admin) as page:
        page.press("close")
        wait_for("the close", lambda: compose.phase() == "final")
    assert "closed" in compose("exec", "-T", "admin", "voting", "status")
    compose("restart", "admin")
    wait_for("the admin page", lambda: compose.answers(compose.admin))
    with OperatorPage(compose.admin) as page:
        page.press("reopen")
        wait_for("the poll to be open", lambda: compose.phase() == "open")


@pytest.mark.parametrize("host", ["127.0.0.2", resolve("0.0.0.0").in_links])
def test_no_page_is_on_another_address_of_this_machine(compose, host):
    if host == "localhost":
        pytest.skip("this machine has no default route")
    for url in (compose.vote, compose.result, compose.admin):
        with pytest.raises(httpx.ConnectError):
            httpx.get(httpx.URL(url).copy_with(host=host))


@pytest.mark.parametrize("service", [name for name in SERVICES if "healthcheck" in SERVICES[name]])
def test_a_health_check_passes(compose, service):
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    compose("exec", "-T", service, *command)
