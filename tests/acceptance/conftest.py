"""`voting up` as a user starts it: a process, its output, its pages."""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest
from environ import ENVIRON

from voting.local.supervisor import Guardian

DEADLINE = 60.0  # seconds until something that has to happen is given up

# Ends what the tests have started, also when the tests themselves are killed.
GUARDIAN = Guardian(os.open(os.devnull, os.O_RDONLY))
atexit.register(GUARDIAN.close)


def wait_for(
    what: str, condition: Callable[[], object], seconds: float = DEADLINE, pause: float = 0.02
) -> None:
    """Wait until `condition` holds. Fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting for: {what}"
        time.sleep(pause)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Find those that still run; one that ended and that nobody has asked about does not."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def holders(data: Path) -> list[psutil.Process]:
    """Find whatever `voting up` has running for that folder: all of it holds the folder's lock."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(file.path == str(data / "lock") for file in process.open_files()):
                found.append(process)
    return found


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
                env={**ENVIRON, **environ},
                process_group=GUARDIAN.group,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ready(self) -> Self:
        """Wait until it has printed its addresses."""
        wait_for("Ctrl-C", lambda: "Ctrl-C" in self.output or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        return self

    def refused(self) -> str:
        """Wait until it has given up and left nothing behind, and return what it said."""
        assert self.process.wait(DEADLINE) == 1, self.output
        assert not holders(self.data)
        assert "Traceback" not in self.output
        return self.output

    def address(self, page: str) -> str:
        """Tell the address of `vote` or `result`, by number: tests need no name service."""
        [port] = re.findall(
            rf"^voting: {page}: +http://localhost:(\d+)$", self.output, re.MULTILINE
        )
        return f"http://127.0.0.1:{port}"

    def vote(self, choice: str, cookies: httpx.Cookies | None = None) -> bool:
        """Vote as a new voter, or as the one of `cookies`, and tell whether it was recorded."""
        with httpx.Client(base_url=self.address("vote"), cookies=cookies) as voter:
            try:
                voter.get("/")
                return voter.post("/vote", data={"choice": choice}).status_code == 303
            except httpx.TransportError:
                return False
            finally:
                if cookies is not None:
                    cookies.update(voter.cookies)

    def tally(self) -> dict[str, int]:
        """Ask the result page's API for the votes of each option; none where it is away."""
        try:
            options = httpx.get(self.address("result") + "/api/tally").json()["options"]
        except httpx.TransportError:
            return {}
        return {key: option["votes"] for key, option in options.items()}

    def children(self, part: str = "") -> list[psutil.Process]:
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

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """Stop a role or server, as `children` names it: it answers nothing."""
        family = [
            process
            for parent in self.children(part)
            for process in (parent, *parent.children(recursive=True))
        ]
        assert family
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its guardian ends the others
            self.process.wait(DEADLINE)

    def close(self) -> None:
        """End it and all that it has started, where a test has not."""
        self.kill()
        try:
            wait_for("its processes to end", lambda: not holders(self.data), seconds=20)
        finally:
            for process in holders(self.data):
                process.kill()
            self._log.unlink()


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder with a path short enough for sockets, which others may traverse."""
    with tempfile.TemporaryDirectory(prefix="voting-data-") as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture(scope="session")
def used() -> Iterator[Path]:
    """The folder of a `voting up` that ran once: starting on a copy is faster than from nothing."""
    with folder() as path:
        up = Up(path / "data").ready()
        assert up.interrupt() == 0
        up.close()
        yield path / "data"


def copy(used: Path, data: Path) -> Path:
    # shutil's copy would not keep who owns Postgres' files.
    subprocess.run(["cp", "-a", f"{used}/.", data], check=True)
    return data


@pytest.fixture
def data(used: Path) -> Iterator[Path]:
    """A folder for the votes, with none so far."""
    with folder() as path:
        yield copy(used, path)


@pytest.fixture
def start(data: Path) -> Iterator[Callable[..., Up]]:  # noqa: ARG001 - which goes after this
    """Start `voting up` with a data folder, options and variables; ended with the test."""
    started: list[Up] = []

    def start(data: Path, *options: str, **environ: str) -> Up:
        started.append(Up(data, *options, **environ))
        return started[-1]

    yield start
    for up in started:
        up.kill()
    for up in started:
        up.close()


@pytest.fixture(scope="module")
def running(used: Path) -> Iterator[Up]:
    """A `voting up` that the tests of a module share: they leave it as it was, but for votes."""
    with folder() as path:
        up = Up(copy(used, path)).ready()
        yield up
        up.close()


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many megabytes and return its path."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        path = Path(tempfile.mkdtemp(prefix="voting-disk-"))
        options = f"size={megabytes}m,mode=0711"
        command = ["mount", "-t", "tmpfs", "-o", options, "voting-tests", str(path)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            path.rmdir()
            pytest.skip("mounting a small disk is for root on Linux, and not in every container")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)
        path.rmdir()
