"""The folder in which `voting up` keeps everything: one user at a time."""

import asyncio
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voting.local.servers import DataDir, fits_sockets
from voting.local.supervisor import StartError

# How long what a killed `voting up` left behind may take to die.
LEFTOVERS_SECONDS = 10.0


def default() -> Path:
    """Where votes are kept unless told: the user's own folder for data."""
    if os.geteuid() == 0:
        return Path("/var/lib/voting")  # /root is closed to the user that Postgres runs as
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "voting"


async def lock(data: Path) -> int:
    """Make sure that nobody else uses the folder, leftovers of a killed one included.

    Returns a file descriptor: the folder is taken as long as any process holds it open. Raises
    StartError.
    """
    held = _open(data)
    patience = asyncio.get_running_loop().time() + LEFTOVERS_SECONDS
    while not _locked(held):
        owner = os.pread(held, 20, 0).decode(errors="replace")
        if _runs(owner):
            raise StartError(f"{data} is in use by another `voting up` (process {owner})")
        if asyncio.get_running_loop().time() > patience:
            raise StartError(f"{data} is in use by what a killed `voting up` ({owner}) has left")
        await asyncio.sleep(0.05)
    with _writing(data):
        os.ftruncate(held, 0)
        os.pwrite(held, str(os.getpid()).encode(), 0)
    return held


@contextmanager
def _writing(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"{data} can't be written: {error.strerror}") from None


def _open(data: Path) -> int:
    with _writing(data):
        # Others may pass through, for Postgres may be another user; none may list it.
        data.mkdir(mode=0o711, parents=True, exist_ok=True)
        return os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)


def _locked(held: int) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OSError):
        return False
    return True


def subfolders(data: Path) -> DataDir:
    """Tell where the servers keep their data and their sockets. Raises StartError."""
    run = data / "run"
    with _writing(data):
        if run.is_symlink():
            run.unlink()
    shutil.rmtree(run, ignore_errors=True)
    if fits_sockets(run):
        with _writing(data):
            run.mkdir(mode=0o700)
        return DataDir(data, run)
    elsewhere = Path(tempfile.mkdtemp(prefix="voting-"))
    with _writing(data):
        run.symlink_to(elsewhere)  # for `running` to find
    return DataDir(data, elsewhere)


def running(data: Path) -> DataDir | None:
    """Find the servers of the `voting up` that runs with that folder; None where none does."""
    run = data.absolute() / "run"
    try:
        runs = _runs((data / "lock").read_text())
        if run.is_symlink():
            run = run.readlink()
    except OSError:
        return None
    return DataDir(data, run) if runs else None


def secret_key(data: Path) -> str:
    """The key that signs voters' cookies: made once, so that they stay the same voters."""
    path = data / "secret-key"
    new = path.with_suffix(".new")
    with _writing(data):
        if not path.exists():
            new.touch(mode=0o600)
            with new.open("w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())  # before the name: an empty key would sign nothing
            new.rename(path)
        return path.read_text()
