"""`voting up` as a user starts it: a process, its output, its pages."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import running_servers
from support.app import VotingUp, data_folder
from support.servers import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Servers as workers want them: they declare no totals final without fsync."""
    with running_servers(fsync=True) as servers:
        yield servers


@pytest.fixture(scope="session")
def used() -> Iterator[Path]:
    """The folder of a `voting up` that has run: a start on its copy is faster than on nothing."""
    with data_folder() as path:
        up = VotingUp(path / "data").ready()
        assert up.interrupt() == 0
        up.close()
        yield path / "data"


def copy(used: Path, data: Path) -> Path:
    # shutil.copytree would not keep the owner of Postgres' files.
    subprocess.run(["cp", "-a", f"{used}/.", data], check=True)
    return data


def run_on_a_copy(used: Path) -> Iterator[VotingUp]:
    with data_folder() as path:
        up = VotingUp(copy(used, path)).ready()
        yield up
        up.close()


@pytest.fixture
def data(used: Path) -> Iterator[Path]:
    """A folder of a `voting up` without votes."""
    with data_folder() as path:
        yield copy(used, path)


@pytest.fixture
def start(data: Path) -> Iterator[Callable[..., VotingUp]]:  # noqa: ARG001 - deleted after it
    """Start a VotingUp with these arguments, until the test ends."""
    started: list[VotingUp] = []

    def start(data: Path, *options: str, **others: Any) -> VotingUp:
        started.append(VotingUp(data, *options, **others))
        return started[-1]

    yield start
    for up in started:
        up.kill()
    for up in started:
        up.close()


@pytest.fixture(scope="session")
def running(used: Path) -> Iterator[VotingUp]:
    """A `voting up` that tests share: they leave it running and its poll open, with any votes."""
    yield from run_on_a_copy(used)


@pytest.fixture(scope="module")
def fresh(used: Path) -> Iterator[VotingUp]:
    """A `voting up` for the tests of a module, whose processes have not served any request."""
    yield from run_on_a_copy(used)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], Path]]:
    """Mount a disk of that many megabytes and return its path."""
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
