"""The commands of the pages, run as a reader types them."""

import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.app import GUARDIAN, VotingUp
from support.docs import PAGES, ROOT, Block, blocks
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

# A page has up to a dozen commands, each with its own deadline; pip needs most of a minute.
pytestmark = pytest.mark.timeout(300)

# `voting` and `python` are those of the tests. Without their modules in front of all others.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
READER = {"PATH": PATH, "PYTHONPATH": ""}

RUN = {page: [block for block in blocks(page) if block.marker == "run"] for page in PAGES}


def starts(block: Block) -> bool:
    """Whether its first command is a `voting up`, which runs until Ctrl-C."""
    return bool(re.search(r"\bvoting up$", block.commands[0]))


def in_shell(line: str) -> tuple[str, ...]:
    """Return a program that runs the line, which ends with `voting up`, with more options."""
    return ("bash", "-c", f'{line} "$@"; exit', "bash")


def beginning(line: str) -> list[str]:
    """Return the first two words of a line of output, with each number as #."""
    return re.sub(r"\d[\d,.]*", "#", line).split()[:2]


def compare(block: Block, output: str) -> None:
    """Each line that the page shows begins as one of the output."""
    printed = [beginning(line) for line in output.splitlines()]
    for line in block.output:
        assert beginning(line) in printed, f"{block}: {line}\nis not in\n{output}"


def environment(up: VotingUp, home: Path) -> dict[str, str]:
    """Return what leads the reader's commands to the servers and ports of a `voting up`."""
    found = dict(re.findall(r"^voting: (vote|result): +(\S+)$", up.output, re.MULTILINE))
    servers = (up.data / "servers.env").read_text().splitlines()
    (home / ".curlrc").write_text(
        "".join(
            f"connect-to = localhost:{port}:127.0.0.1:{found[page].rpartition(':')[2]}\n"
            for page, port in (("vote", 8080), ("result", 8081))
        )
    )
    return {
        **ENVIRON,
        **READER,
        **dict(line.split("=", 1) for line in servers),
        "VOTE_URL": found["vote"],
        "RESULT_URL": found["result"],
        "CURL_HOME": str(home),
    }


def run(block: Block, folder: Path, environ: dict[str, str]) -> str:
    """Run the commands of a block in a shell, with a terminal that says yes, to the first error."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, b"y\n" * len(block.commands))
        done = subprocess.run(
            ["bash", "-exc", "\n".join(block.commands)],
            cwd=folder,
            env=environ,
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
            process_group=GUARDIAN.group,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout


def pages(*, start: bool) -> list[object]:
    """Return the pages whose commands start a `voting up`, or do not."""
    return [
        pytest.param(page, id=str(page))
        for page, found in RUN.items()
        if found and any(map(starts, found)) is start
    ]


@pytest.mark.parametrize("page", pages(start=False))
def test_the_commands_of_a_page_work(page, fresh, tmp_path):
    environ = environment(fresh, tmp_path)
    for block in RUN[page]:
        compare(block, run(block, tmp_path, environ))


@pytest.mark.parametrize("page", pages(start=True))
def test_the_commands_of_a_page_that_starts_everything_work(page, start, data, tmp_path):
    up = None
    environ = {**ENVIRON, **READER}
    for block in RUN[page]:
        line, *others = block.commands
        if starts(block):
            up = start(data, program=in_shell(line), **READER).ready()
            environ = environment(up, tmp_path)
            compare(block, up.output)
        rest = replace(block, commands=tuple(others), output=()) if starts(block) else block
        if rest.commands:
            compare(rest, run(rest, tmp_path, environ))
    assert up.interrupt() == 0


def test_the_first_command_installs_and_starts_everything(start, data, tmp_path):
    name = "test_the_first_command_installs_and_starts_everything"
    found = [block for page in PAGES for block in blocks(page) if name in (block.marker or "")]
    [(line,)] = {block.commands for block in found}
    for part in ("voting", "migrations"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, tmp_path)
    up = start(data, program=in_shell(line), popen={"cwd": tmp_path}, PYTHONPATH="")
    up.ready(seconds=240)  # pip installs all packages before
    for block in found:
        compare(block, up.output)
    assert up.vote("b")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 0, "b": 1})
    assert up.interrupt() == 0
