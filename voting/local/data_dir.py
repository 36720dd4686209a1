"""The directory in which `voting up` keeps its data. One `voting up` uses it at a time."""

import asyncio
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from voting.local.supervisor import StartError

# How long the processes of a killed `voting up` may take to end.
LEFTOVERS_TIMEOUT = 10.0

# The longest path of a socket that all systems accept, less the longest file name used here.
_MAX_SOCKET_DIR = 103 - len("/.s.PGSQL.5432")


@dataclass(frozen=True)
class DataDir:
    """The servers' files, which stay in `data`, and their sockets in `run`."""

    data: Path
    run: Path

    def database_url(self, database: str = "postgres") -> str:
        # Without the port, PGPORT would apply.
        return f"postgresql://postgres@/{database}?host={self.run}&port=5432"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.run}/valkey.sock"


async def acquire_lock(data: Path) -> int:
    """Create the directory and lock it. Waits for the processes of a killed `voting up` to end.

    Returns a file descriptor; the lock lasts as long as any process has it open. Raises StartError.
    """
    lock = _open_lock(data)
    deadline = asyncio.get_running_loop().time() + LEFTOVERS_TIMEOUT
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        owner = os.pread(lock, 20, 0).decode(errors="replace")
        with suppress(ValueError, OSError):  # the owner has ended
            os.kill(int(owner), 0)
            raise StartError(f"{data} is in use by another `voting up` (process {owner})")
        if asyncio.get_running_loop().time() > deadline:
            raise StartError(f"{data} is in use by processes of a killed `voting up` ({owner})")
        await asyncio.sleep(0.05)
    with writes_to(data):
        (data / "servers.env").unlink(missing_ok=True)  # of a killed `voting up`
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _open_lock(data: Path) -> int:
    with writes_to(data):
        created = [each for each in (data, *data.parents) if not each.exists()]
        data.mkdir(mode=0o711, parents=True, exist_ok=True)
        # If this is root, Postgres runs as another user, who needs to pass through, whatever the
        # umask; listing is not needed.
        for each in created if os.geteuid() == 0 else ():
            each.chmod(each.stat().st_mode | 0o011)
        return os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)


def socket_dir(data: Path) -> Path:
    """Create an empty directory for the servers' sockets. Raises StartError.

    It is `data/run`, or a temporary one if that path is too long for sockets or needs quoting in
    URLs.
    """
    run = data / "run"
    shutil.rmtree(run, ignore_errors=True)
    if _fits_sockets(run):
        with writes_to(data):
            run.mkdir(mode=0o700)
        return run
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private one
        if _fits_sockets(Path(parent, "voting-12345678")):
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="voting-", dir=parent))
    raise StartError(f"{run} can't have sockets, nor can TMPDIR or /tmp: use a shorter --data")


def _fits_sockets(path: Path) -> bool:
    short = len(str(path)) <= _MAX_SOCKET_DIR
    return short and bool(re.fullmatch(r"[\w./-]+", str(path), re.ASCII))


@contextmanager
def published_settings(data: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """Write to servers.env what the operator's commands need to know. Raises StartError."""
    path = data / "servers.env"
    names = ("DATABASE_URL", "REDIS_URL", "REDIS_REPLICAS", "SHOW_RESULTS")
    settings = "".join(f"{name}={environ[name]}\n" for name in names if name in environ)
    with writes_to(data):
        write_private(path, settings)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def secret_key(data: Path) -> str:
    """Return the key that signs voters' cookies. It is created once, so voters keep their votes."""
    path = data / "secret-key"
    with writes_to(data):
        if not path.exists():
            write_private(path, secrets.token_hex(32))
        return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read. It gets its name when it is on disk."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


@contextmanager
def writes_to(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"{data} can't be written: {error.strerror}") from None
