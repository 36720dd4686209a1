"""`voting up`: the whole app on this machine, with the roles started as in production."""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from voting.local import data_dir as folder
from voting.local import servers as embedded
from voting.local.servers import DataDir
from voting.local.supervisor import Child, Guardian, Program, StartError
from voting.settings import Role

# One after the other, each with the seconds it gets: no new ballots, then the batch in hand is
# counted, then the servers.
_STOP = ((("vote", "result"), 12.0), (("worker",), 12.0), (("Valkey", "Postgres"), 60.0))

# Each role gets what it may have, as in the cluster.
WITHHELD = {
    Role.VOTE: {"DATABASE_URL"},
    Role.RESULT: {"REDIS_URL", "SECRET_KEYS"},
    Role.WORKER: {"SECRET_KEYS"},
}


def up(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C. Return the exit code of the command."""
    try:
        asyncio.run(Stack.of(arguments).run())
    except StartError as error:
        _say(str(error), to=2)
        return 1
    return 0


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

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Stack":
        return cls(
            (arguments.data or folder.default()).absolute(),
            {Role.VOTE: arguments.vote_port, Role.RESULT: arguments.result_port},
            {**dict.fromkeys(Role, 1), **dict(arguments.scale)},
            os.environ.get("HOST") or "127.0.0.1",
        )

    async def run(self) -> None:
        """Start everything, wait for a signal, stop everything. Raises StartError."""
        self._listen_to_signals()
        lock = await folder.lock(self._data)
        ports = {role: self._reserve(port) for role, port in self._ports.items()}
        folders = folder.subfolders(self._data)
        guardian = Guardian(lock)
        try:
            await self._until_stopped(self._start(guardian, folders, ports))
        finally:
            await self._stop()
            guardian.close()
            await asyncio.get_running_loop().shutdown_default_executor()
            for each in self._reserved:
                each.close()
            shutil.rmtree(folders.run, ignore_errors=True)
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

    async def _start(self, guardian: Guardian, folders: DataDir, ports: Mapping[Role, int]) -> None:
        child = partial(Child, guardian=guardian, say=_say)
        # What is set to nothing counts as not set, as everywhere.
        environ = {name: value for name, value in os.environ.items() if value}
        if "SECRET_KEYS" not in environ:
            environ["SECRET_KEYS"] = folder.secret_key(self._data)
        servers = []
        if "DATABASE_URL" not in environ:
            environ["DATABASE_URL"] = folders.database_url()
            programs = await asyncio.to_thread(embedded.prepare_postgres, folders, guardian)
            servers.append(child(embedded.postgres(folders, programs)))
        if "REDIS_URL" not in environ:
            environ["REDIS_URL"] = folders.redis_url
            servers.append(child(embedded.valkey(folders)))
        self._children += servers
        await _all(each.start() for each in servers)
        await self._migrate(guardian, environ)

        roles = [
            child(self._program(role, number, environ, ports))
            for role in Role
            for number in range(1, self._scale[role] + 1)
        ]
        self._children += roles
        await _all(each.start() for each in roles)
        _say(f"votes are kept in {self._data}")
        _say(f"vote:   http://localhost:{ports[Role.VOTE]}")
        _say(f"result: http://localhost:{ports[Role.RESULT]}")
        _say("Ctrl-C stops everything and keeps the votes")

    async def _migrate(self, guardian: Guardian, environ: Mapping[str, str]) -> None:
        migration = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voting", "migrate"),
            env={"LOG_LEVEL": "warning", "LOG_FORMAT": "console", **environ},
            process_group=guardian.group,
            pass_fds=(guardian.held,),
        )
        try:
            code = await migration.wait()
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                migration.kill()
        if code != 0:
            raise StartError("the database could not be migrated")

    def _program(
        self, role: Role, number: int, environ: Mapping[str, str], ports: Mapping[Role, int]
    ) -> Program:
        ops_port = self._reserve(0)
        own = {
            "ROLE": role,
            "HOST": self._host,
            "PORT": str(ports.get(role, 0)),
            "OPS_PORT": str(ops_port),
        }
        given = {
            "LOG_LEVEL": "warning",
            "LOG_FORMAT": "console",
            "VOTE_URL": f"http://localhost:{ports[Role.VOTE]}",
            "RESULT_URL": f"http://localhost:{ports[Role.RESULT]}",
            **environ,
            **own,
        }
        alone = self._scale[role] == 1
        return Program(
            name=role.value if alone else f"{role.value} {number}",
            command=[sys.executable, "-m", "voting"],
            environment={k: v for k, v in given.items() if k not in WITHHELD[role]},
            ready=partial(answers, self._host, ops_port),
        )

    async def _stop(self) -> None:
        for names, seconds in _STOP:
            await _all(
                each.stop(seconds)
                for each in self._children
                if each.program.name.split()[0] in names
            )

    def _reserve(self, port: int) -> int:
        """Take a port for the children to share, so that nobody else does. Raises StartError."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            with socket.socket(family) as probe:  # somebody who listens there makes this fail
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._host, port))
            reserved = socket.socket(family)
            self._reserved.append(reserved)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((self._host, port))
            # From here on the probe of another fails too, though nobody listens yet.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StartError(f"port {port} can't be had: {reason}") from None
        return int(reserved.getsockname()[1])

    def _listen_to_signals(self) -> None:
        def handle(number: int) -> None:
            if self._stopping.is_set():
                os._exit(128 + number)  # the guardian ends the others
            _say("stopping")
            self._stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, handle, number)


async def answers(host: str, port: int) -> bool:
    """Whether the role whose operations port this is can do its work."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; where one fails, stop waiting for the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in coroutines:
                tasks.create_task(each)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _say(line: str, to: int = 1) -> None:
    # Who reads may be gone, as with `voting up | tee`: that must not get in the way of a stop.
    with suppress(OSError):
        os.write(to, f"voting: {line}\n".encode())
