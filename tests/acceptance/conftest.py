"""`voting up` as a user starts it: a process, its output, its pages."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest

DEADLINE = 60.0  # seconds until something that has to happen is given up


def wait_for(what: str, condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait until `condition` holds. Fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting for: {what}"
        time.sleep(0.02)


class Up:
    """A running `voting up` on free ports, with what it printed so far in `output`."""

    def __init__(self, data: Path, *options: str, **environ: str) -> None:
        self.data = data
        # Beside the folder, not in it: a test may fill or forbid that.
        self._log = Path(tempfile.mkstemp(prefix="voting-up-", suffix=".log")[1])
        command = [sys.executable, "-m", "voting", "up", "--data", str(data)]
        ports = ["--vote-port", "0", "--result-port", "0"]
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [*command, *ports, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ready(self) -> Self:
        """Wait until it has printed its addresses."""
        wait_for("Ctrl-C", lambda: "Ctrl-C" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        return self

    def address(self, page: str) -> str:
        """Tell the address of `vote` or `result`, by number: tests need no name service."""
        [port] = re.findall(
            rf"^voting: {page}: +http://localhost:(\d+)$", self.output, re.MULTILINE
        )
        return f"http://127.0.0.1:{port}"

    def tally(self) -> dict[str, int]:
        """Ask the result page's API for the votes of each option."""
        options = httpx.get(self.address("result") + "/api/tally").json()["options"]
        return {key: option["votes"] for key, option in options.items()}

    def children(self, part: str) -> list[psutil.Process]:
        """Find the processes of a role ("vote", "result", "worker") or server ("postgres -D")."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                command = " ".join(child.cmdline())
                role = child.environ().get("ROLE") if "-m voting" in command else None
            except psutil.Error:
                continue  # it just ended
            # Postgres has workers too: a role is known by its name alone.
            if part == role or (part not in {"vote", "result", "worker"} and part in command):
                found.append(child)
        return found

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its guardian ends the others
            self.process.wait(DEADLINE)
        self._log.unlink()


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for the votes, with a path short enough for sockets, which others may traverse."""
    with tempfile.TemporaryDirectory(prefix="voting-data-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def start() -> Iterator[Callable[..., Up]]:
    """Start `voting up` with a data folder, options and variables; ended with the test."""
    started: list[Up] = []

    def start(data: Path, *options: str, **environ: str) -> Up:
        started.append(Up(data, *options, **environ))
        return started[-1]

    yield start
    for up in started:
        up.close()
