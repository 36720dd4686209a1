"""`voting up`: the whole app on this machine, with the roles started as in production."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import segno

from voting.local import servers
from voting.local.address import Address, resolve
from voting.local.data_dir import DataDir, acquire_lock, published_settings, secret_key, socket_dir
from voting.local.replication import Machines, has_queue
from voting.local.supervisor import Child, Guardian, Program, StartError, responds
from voting.settings import Role, bind_problem, default_data_dir

# Stopped one group after the other, each with its timeout in seconds: first no new ballots come,
# then workers count their last batch, then the servers stop.
_STOP_ORDER = (
    (("vote", "result", "admin"), 12.0),
    (("worker",), 12.0),
    (("Sentinel",), 12.0),  # it would replace a primary that stops
    (("Valkey", "Postgres"), 60.0),
)

# What a role does not need it does not get, as in the cluster.
WITHHELD_ENV = {
    Role.VOTE: {"DATABASE_URL", "ADMIN_TOKEN"},
    Role.RESULT: {"REDIS_URL", "SECRET_KEYS", "ADMIN_TOKEN"},
    Role.WORKER: {"SECRET_KEYS", "ADMIN_TOKEN"},
    Role.ADMIN: {"SECRET_KEYS"},
}

# -P: without it, Python would import modules from the current directory.
_VOTING = (sys.executable, "-P", "-m", "voting")

# The admin page listens there, whatever HOST says.
_ONLY_HERE = Address("127.0.0.1", "127.0.0.1")

# The beginnings of links that no other machine can follow.
_LOOPBACK = ("http://localhost:", "http://127.", "http://[::1]:")


def _scale(text: str) -> tuple[Role, int]:
    """Parse ROLE=N: the number of processes of a role."""
    name, _, number = text.partition("=")
    if name == Role.ADMIN:
        # Each process would refuse the forms of the others.
        raise click.BadParameter("there is one process of the admin role")
    with suppress(ValueError):
        role, count = Role(name), int(number)
        if count > 0:
            return role, count
    raise click.BadParameter("must be like worker=3")


_PORT = click.IntRange(0, 65535)


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=default_data_dir,
    help="Directory in which votes are kept.",
)
@click.option("--vote-port", type=_PORT, default=8080, metavar="PORT", help="Default: 8080.")
@click.option("--result-port", type=_PORT, default=8081, metavar="PORT", help="Default: 8081.")
@click.option("--admin-port", type=_PORT, default=8082, metavar="PORT", help="Default: 8082.")
@click.option(
    "--scale",
    type=_scale,
    multiple=True,
    metavar="ROLE=N",
    help="Run N processes of a role. Can be repeated for other roles.",
)
@click.option(
    "--replicated",
    is_flag=True,
    help="Keep the queue three times: three Valkeys, of which Sentinels choose the primary.",
)
def up(  # noqa: PLR0913 - the options of the command line
    *,
    data: Path,
    vote_port: int,
    result_port: int,
    admin_port: int,
    scale: tuple[tuple[Role, int], ...],
    replicated: bool,
) -> None:
    """Run the whole app on this machine.

    Starts Postgres and Valkey, unless DATABASE_URL and REDIS_URL are set, and all roles. HOST is
    the address to listen on (default: 127.0.0.1); with HOST=0.0.0.0 other machines can vote. The
    admin page is for this machine only.
    """
    if replicated and os.environ.get("REDIS_URL"):
        raise click.UsageError("--replicated starts the servers of the queue: unset REDIS_URL")
    ports = {Role.VOTE: vote_port, Role.RESULT: result_port, Role.ADMIN: admin_port}
    processes = {**dict.fromkeys(Role, 1), **dict(scale)}
    try:
        address = resolve(os.environ.get("HOST") or "127.0.0.1")
        stack = Stack(data.absolute(), ports, processes, address, replicated)
        asyncio.run(stack.run())
    except StartError as error:
        raise click.ClickException(str(error)) from None


@dataclass
class Stack:
    """The servers that the environment does not name, and the roles."""

    data: Path
    ports: dict[Role, int]
    scale: Mapping[Role, int]
    address: Address
    replicated: bool
    _children: list[Child] = field(default_factory=list)
    _exits: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def run(self) -> None:
        """Start everything, wait for a signal, stop everything. Raises StartError."""
        async with self._exits:
            running = asyncio.create_task(self._run())
            self._handle_signals(running)
            with suppress(asyncio.CancelledError):
                await running

    async def _run(self) -> None:
        exits = self._exits
        lock = await acquire_lock(self.data)
        exits.callback(os.close, lock)
        self.ports = {
            role: self._reserve_port(port, _ONLY_HERE if role == Role.ADMIN else self.address)
            for role, port in self.ports.items()
        }
        data_dir = DataDir(self.data, socket_dir(self.data))
        exits.callback(shutil.rmtree, data_dir.run, ignore_errors=True)
        exits.push_async_callback(asyncio.get_running_loop().shutdown_default_executor)
        guardian = Guardian(lock)
        exits.callback(guardian.close)
        exits.push_async_callback(self._stop)
        await self._start(guardian, data_dir)
        await asyncio.Event().wait()  # until a signal cancels this

    async def _start(self, guardian: Guardian, data_dir: DataDir) -> None:
        child = partial(Child, guardian=guardian, report=_echo)
        # An empty variable counts as not set, as in all settings.
        given = {name: value for name, value in os.environ.items() if value}
        environ = {"LOG_LEVEL": "warning", "LOG_FORMAT": "console", **given}
        if "SECRET_KEYS" not in environ:
            environ["SECRET_KEYS"] = secret_key(self.data)
        embedded: list[Child] = []
        if "DATABASE_URL" not in environ:
            environ["DATABASE_URL"] = data_dir.database_url()
            programs = await asyncio.to_thread(servers.prepare_postgres, data_dir, guardian)
            embedded.append(child(servers.postgres(data_dir, programs)))
        if "REDIS_URL" not in environ:
            queue, settings = self._queue(data_dir)
            environ = {**settings, **environ}
            embedded += map(child, queue)
        await self._start_children(embedded)
        self._exits.enter_context(published_settings(self.data, environ))
        await self._migrate(guardian, environ)

        host = self.address.in_links
        pages = {role: f"http://{host}:{port}" for role, port in self.ports.items()}
        urls = {"VOTE_URL": pages[Role.VOTE], "RESULT_URL": pages[Role.RESULT], **environ}
        opens = urls.setdefault("ADMIN_TOKEN", secrets.token_urlsafe()).strip()
        await self._start_children(
            child(self._program(role, number, urls))
            for role in Role
            for number in range(1, self.scale[role] + 1)
        )
        _echo(f"votes are kept in {self.data}")
        _echo(f"vote:   {pages[Role.VOTE]}")
        _echo(f"result: {pages[Role.RESULT]}")
        # Not localhost, which may be ::1 first, where another user could listen on this port, and
        # whose cookies a browser sends to all that listen on either address.
        admin = f"http://{_ONLY_HERE.ip}:{self.ports[Role.ADMIN]}"
        _echo(f"admin:  {admin}" + ("" if opens == "none" else f"/?token={quote(opens)}"))
        if self.address.is_any and not {"VOTE_URL", "RESULT_URL"} <= environ.keys():
            known = host != "localhost"
            why = "the address on the default route" if known else "as there is no default route"
            _echo(f"links say {host}, {why}; VOTE_URL and RESULT_URL set others")
        if os.isatty(1) and not urls["VOTE_URL"].startswith(_LOOPBACK):
            _show_qr_code(urls["VOTE_URL"])
        _echo("Ctrl-C stops everything and keeps the votes")

    def _queue(self, data_dir: DataDir) -> tuple[list[Program], dict[str, str]]:
        """Return the servers of the queue, and the settings of the roles that use it."""
        # Workers would wait in vain for the votes of the other queue.
        if has_queue(self.data, replicated=not self.replicated):
            option = "without" if self.replicated else "with"
            raise StartError(
                f"the votes in {self.data} were queued {option} --replicated: start so again, or"
                " choose another directory with --data"
            )
        if not self.replicated:
            return [servers.valkey(data_dir)], {"REDIS_URL": data_dir.redis_url}
        machines = Machines.of(self.data)
        return machines.programs(), {"REDIS_URL": machines.url, "REDIS_REPLICAS": "1"}

    async def _start_children(self, children: Iterable[Child]) -> None:
        started = list(children)
        self._children += started
        await _gather(each.start() for each in started)

    async def _migrate(self, guardian: Guardian, environ: Mapping[str, str]) -> None:
        migration = await asyncio.create_subprocess_exec(
            *_VOTING,
            "migrate",
            env=environ,
            process_group=guardian.group,
            pass_fds=(guardian.lock,),
        )
        try:
            code = await migration.wait()
        finally:
            with suppress(ProcessLookupError):  # it has ended
                migration.kill()
        if code != 0:
            raise StartError("the database can't be migrated")

    def _program(self, role: Role, number: int, environ: Mapping[str, str]) -> Program:
        ops_port = self._reserve_port(0, self.address)
        own = {"ROLE": role, "HOST": self.address.ip, "OPS_PORT": str(ops_port)}
        own["PORT"] = str(self.ports.get(role, 0))
        given = {name: environ[name] for name in environ.keys() - WITHHELD_ENV[role]}
        return Program(
            name=role.value if self.scale[role] == 1 else f"{role.value} {number}",
            command=_VOTING,
            environment={**given, **own},
            ready=partial(is_ready, self.address.own, ops_port),
        )

    async def _stop(self) -> None:
        for names, timeout in _STOP_ORDER:
            await _gather(
                each.stop(timeout)
                for each in self._children
                if each.program.name.split()[0] in names
            )

    def _reserve_port(self, port: int, address: Address) -> int:
        """Bind a port that children can share and other programs can't take. Raises StartError."""
        family, ip = address.family, address.ip
        try:
            with socket.socket(family) as probe:  # fails if another program listens there
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((ip, port))
            reserved = self._exits.enter_context(socket.socket(family))
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((ip, port))
            # Makes the probe of another `voting up` fail, though no process listens yet.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise StartError(bind_problem(address.host, port, error)) from None
        return int(reserved.getsockname()[1])

    def _handle_signals(self, running: asyncio.Task[None]) -> None:
        def handle(number: int) -> None:
            if running.cancelling() or running.done():
                os._exit(128 + number)  # the guardian kills the children
            _echo("stopping")
            running.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, handle, number)


async def is_ready(host: str, ops_port: int) -> bool:
    """Whether /readyz of the role with this operations port responds with 200."""
    request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return await responds(asyncio.open_connection(host, ops_port), request, b" 200 ")


async def _gather(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all. If one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in coroutines:
                tasks.create_task(each)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _show_qr_code(url: str) -> None:
    code = StringIO()
    segno.make(url, error="l", micro=False).terminal(code, compact=True)
    for line in code.getvalue().splitlines():
        _write(f"\x1b[97;40m{line}\x1b[0m\n")  # white on black on every terminal


def _echo(line: str) -> None:
    _write(f"voting: {line}\n")


def _write(text: str) -> None:
    # The reader of stdout may have exited, as with `voting up | tee`. That must not disturb a stop,
    # and with click.echo the unwritten line would fail again when Python exits.
    with suppress(OSError):
        os.write(1, text.encode())
