"""`voting up`: the whole app on this machine, with the roles started as in production."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from voting.local import servers
from voting.local.data_dir import DataDir, acquire_lock, published_urls, secret_key, socket_dir
from voting.local.supervisor import Child, Guardian, Program, StartError
from voting.settings import Role, default_data_dir

# Stopped one group after the other, each with its timeout in seconds: first no new ballots come,
# then workers count their last batch, then the servers stop.
_STOP_ORDER = (
    (("vote", "result"), 12.0),
    (("worker",), 12.0),
    (("Valkey", "Postgres"), 60.0),
)

# What a role does not need it does not get, as in the cluster.
WITHHELD_ENV = {
    Role.VOTE: {"DATABASE_URL"},
    Role.RESULT: {"REDIS_URL", "SECRET_KEYS"},
    Role.WORKER: {"SECRET_KEYS"},
}


class Scale(click.ParamType[tuple[Role, int], str]):
    """ROLE=N: the number of processes of a role."""

    name = "scale"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Role, int]:
        name, _, number = value.partition("=")
        try:
            role, count = Role(name), int(number)
        except ValueError:
            count = 0
        if count < 1:
            self.fail("must be like worker=3", param, ctx)
        return role, count


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
@click.option(
    "--scale",
    type=Scale(),
    multiple=True,
    metavar="ROLE=N",
    help="Run N processes of a role. Can be repeated for other roles.",
)
def up(data: Path, vote_port: int, result_port: int, scale: tuple[tuple[Role, int], ...]) -> None:
    """Run the whole app on this machine.

    Starts Postgres and Valkey, unless DATABASE_URL and REDIS_URL are set, and all roles. HOST is
    the address to listen on (default: 127.0.0.1).
    """
    ports = {Role.VOTE: vote_port, Role.RESULT: result_port}
    processes = {**dict.fromkeys(Role, 1), **dict(scale)}
    host = os.environ.get("HOST") or "127.0.0.1"
    try:
        asyncio.run(Stack(data.absolute(), ports, processes, host).run())
    except StartError as error:
        raise click.ClickException(str(error)) from None


class Stack:
    """The servers that the environment does not name, and the three roles."""

    def __init__(
        self, data: Path, ports: Mapping[Role, int], scale: Mapping[Role, int], host: str
    ) -> None:
        self._data = data
        self._ports = ports
        self._scale = scale
        self._host = host
        self._children: list[Child] = []
        self._reserved: list[socket.socket] = []
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start everything, wait for a signal, stop everything. Raises StartError."""
        self._handle_signals()
        lock = await acquire_lock(self._data)
        ports = {role: self._reserve_port(port) for role, port in self._ports.items()}
        data_dir = DataDir(self._data, socket_dir(self._data))
        guardian = Guardian(lock)
        try:
            with ExitStack() as running:
                await self._until_stopped(self._start(guardian, data_dir, ports, running))
        finally:
            await self._stop()
            guardian.close()
            await asyncio.get_running_loop().shutdown_default_executor()
            for each in self._reserved:
                each.close()
            shutil.rmtree(data_dir.run, ignore_errors=True)
            os.close(lock)

    async def _until_stopped(self, start: Coroutine[Any, Any, None]) -> None:
        starting = asyncio.create_task(start)
        waiting = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await waiting
        starting.cancel()
        await asyncio.wait({starting})

    async def _start(
        self,
        guardian: Guardian,
        data_dir: DataDir,
        ports: Mapping[Role, int],
        running: ExitStack,
    ) -> None:
        child = partial(Child, guardian=guardian, report=_echo)
        # An empty variable counts as not set, as in all settings.
        environ = {name: value for name, value in os.environ.items() if value}
        if "SECRET_KEYS" not in environ:
            environ["SECRET_KEYS"] = secret_key(self._data)
        embedded = []
        if "DATABASE_URL" not in environ:
            environ["DATABASE_URL"] = data_dir.database_url()
            programs = await asyncio.to_thread(servers.prepare_postgres, data_dir, guardian)
            embedded.append(child(servers.postgres(data_dir, programs)))
        if "REDIS_URL" not in environ:
            environ["REDIS_URL"] = data_dir.redis_url
            embedded.append(child(servers.valkey(data_dir)))
        self._children += embedded
        await _gather(each.start() for each in embedded)
        running.enter_context(published_urls(self._data, environ))
        await self._migrate(guardian, environ)

        roles = [
            child(self._program(role, number, environ, ports))
            for role in Role
            for number in range(1, self._scale[role] + 1)
        ]
        self._children += roles
        await _gather(each.start() for each in roles)
        _echo(f"votes are kept in {self._data}")
        _echo(f"vote:   http://localhost:{ports[Role.VOTE]}")
        _echo(f"result: http://localhost:{ports[Role.RESULT]}")
        _echo("Ctrl-C stops everything and keeps the votes")

    async def _migrate(self, guardian: Guardian, environ: Mapping[str, str]) -> None:
        migration = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voting", "migrate"),
            env={"LOG_LEVEL": "warning", "LOG_FORMAT": "console", **environ},
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

    def _program(
        self, role: Role, number: int, environ: Mapping[str, str], ports: Mapping[Role, int]
    ) -> Program:
        ops_port = self._reserve_port(0)
        defaults = {
            "LOG_LEVEL": "warning",
            "LOG_FORMAT": "console",
            "VOTE_URL": f"http://localhost:{ports[Role.VOTE]}",
            "RESULT_URL": f"http://localhost:{ports[Role.RESULT]}",
        }
        own = {
            "ROLE": role,
            "HOST": self._host,
            "PORT": str(ports.get(role, 0)),
            "OPS_PORT": str(ops_port),
        }
        environment = {**defaults, **environ, **own}
        return Program(
            name=role.value if self._scale[role] == 1 else f"{role.value} {number}",
            command=[sys.executable, "-m", "voting"],
            environment={k: v for k, v in environment.items() if k not in WITHHELD_ENV[role]},
            ready=partial(is_ready, self._host, ops_port),
        )

    async def _stop(self) -> None:
        for names, timeout in _STOP_ORDER:
            await _gather(
                each.stop(timeout)
                for each in self._children
                if each.program.name.split()[0] in names
            )

    def _reserve_port(self, port: int) -> int:
        """Bind a port that children can share and other programs can't take. Raises StartError."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            with socket.socket(family) as probe:  # fails if another program listens there
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._host, port))
            reserved = socket.socket(family)
            self._reserved.append(reserved)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((self._host, port))
            # Makes the probe of another `voting up` fail, though no process listens yet.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise StartError(f"port {port} is not available: {error.strerror}") from None
        return int(reserved.getsockname()[1])

    def _handle_signals(self) -> None:
        def handle(number: int) -> None:
            if self._stopping.is_set():
                os._exit(128 + number)  # the guardian kills the children
            _echo("stopping")
            self._stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, handle, number)


async def is_ready(host: str, ops_port: int) -> bool:
    """Whether /readyz of the role with this operations port responds with 200."""
    try:
        reader, writer = await asyncio.open_connection(host, ops_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def _gather(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all. If one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in coroutines:
                tasks.create_task(each)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _echo(line: str) -> None:
    # The reader of stdout may have exited, as with `voting up | tee`. That must not disturb a stop,
    # and with click.echo the unwritten line would fail again when Python exits.
    with suppress(OSError):
        os.write(1, f"voting: {line}\n".encode())
