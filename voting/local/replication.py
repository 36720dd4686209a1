"""A queue on three machines, all of them on this one: a Valkey server and a Sentinel for each.

The directory of a machine is its disk. The programs of a machine without it start again, empty.
"""

import asyncio
import json
import random
import re
import secrets
import socket
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from voting.local.data_dir import write_private, writes_to
from voting.local.servers import ENVIRONMENT, VALKEY_OPTIONS, valkey_server
from voting.local.supervisor import Program, StartError

NAME = "voting"  # Sentinel's name of the primary
NUMBERS = range(3)
HOST = "127.0.0.1"

# Below those that systems give to clients: one of these could have that of a server that restarts.
_PORTS = range(20_000, 32_768)

_ASK_TIMEOUT = 0.4  # seconds
_ELECTION_TIMEOUT = 30.0  # seconds
_PAUSE = 0.1  # seconds between two questions


class Named(NamedTuple):
    """The primary that a Sentinel names, and the epoch since which it is."""

    epoch: int
    primary: int


@dataclass(frozen=True)
class Machines:
    """The servers and Sentinels; `ports` are those of the servers, then those of the Sentinels."""

    data: Path
    password: str
    ports: list[int]

    @classmethod
    def of(cls, data: Path) -> Self:
        """Return those of this data directory, created once. Raises StartError."""
        path = data / "machines.json"
        with writes_to(data):
            if not path.exists():
                new = {"password": secrets.token_hex(32), "ports": _free_ports()}
                write_private(path, json.dumps(new))
            machines = cls(data, **json.loads(path.read_text()))
        for port in machines.ports:
            if not _is_free(port):
                raise StartError(f"port {port}, which {path} names, is not available")
        return machines

    @property
    def url(self) -> str:
        sentinels = ",".join(f"{HOST}:{port}" for port in self.ports[3:])
        return f"redis+sentinel://default:{self.password}@{sentinels}/{NAME}"

    def folder(self, number: int) -> Path:
        return self.data / f"machine-{number}"

    def programs(self) -> list[Program]:
        return [make(number) for make in (self._server, self._sentinel) for number in NUMBERS]

    def _server(self, number: int) -> Program:
        config = str(self.folder(number) / "valkey.conf")
        return Program(
            name=f"Valkey {number}",
            command=[
                *(valkey_server(), config, "--bind", HOST, "--port", str(self.ports[number])),
                *("--dir", str(self.folder(number)), *VALKEY_OPTIONS),
                *("--min-replicas-to-write", "1", "--min-replicas-max-lag", "3"),
                *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
            ],
            environment=ENVIRONMENT,
            prepare=partial(self._configure_server, number),
            ready=partial(self._is_linked, number),
            log=self.data / f"valkey-{number}.log",
            umask=0o077,
        )

    def _sentinel(self, number: int) -> Program:
        config = str(self.folder(number) / "sentinel.conf")
        return Program(
            name=f"Sentinel {number}",
            command=[valkey_server(), config, "--sentinel", "--dir", str(self.folder(number))],
            environment=ENVIRONMENT,
            prepare=partial(self._configure_sentinel, number),
            ready=partial(self._knows_all, number),
            log=self.data / f"sentinel-{number}.log",
            umask=0o077,
        )

    async def _configure_server(self, number: int) -> None:
        primary = await self.primary_for(number)
        lines = [f"requirepass {self.password}", f"primaryauth {self.password}"]
        if primary != number:
            lines.append(f"replicaof {HOST} {self.ports[primary]}")
        self._write(number, "valkey.conf", lines)

    async def primary_for(self, number: int) -> int:
        """Decide which server is the primary as server `number` starts.

        One that has lost its data is a replica of the next primary: else the others, as its
        replicas, would delete theirs.
        """
        while True:
            named = await self._named()
            if not named:  # the first start
                return 0
            # A Sentinel that has just promoted another may still name the former primary.
            _, primary = max(named, key=lambda each: (each.epoch, each.primary != number))
            if primary != number or (self.folder(number) / "appendonlydir").exists():
                return primary
            await asyncio.sleep(_PAUSE)

    async def _configure_sentinel(self, number: int) -> None:
        if (self.folder(number) / "sentinel.conf").exists():
            return
        # Without its file, a Sentinel knows no replica that it could promote, and costs time if it
        # is elected: it lets the others replace a primary that does not respond, unless they can't.
        # On the first start, it waits for the replicas: it looks for more only after ten seconds.
        deadline = asyncio.get_running_loop().time() + _ELECTION_TIMEOUT
        while True:
            named = await self._named()
            primary = max(named).primary if named else 0
            info = await self._ask(self.ports[primary], "INFO replication")
            if "role:master" in info and (named or await self._is_linked(primary)):
                break
            if named and asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_PAUSE)
        lines = [
            f"bind {HOST}",
            f"port {self.ports[3 + number]}",
            f"requirepass {self.password}",
            # With another id, it would be one more, and majorities would grow with each loss.
            f"sentinel myid {number + 1:040x}",
            f"sentinel sentinel-pass {self.password}",
            f"sentinel monitor {NAME} {HOST} {self.ports[primary]} 2",
            f"sentinel auth-pass {NAME} {self.password}",
            # Apart, so that they do not all start an election at once, and none wins.
            f"sentinel down-after-milliseconds {NAME} {6_500 + 500 * number}",
            f"sentinel failover-timeout {NAME} 2000",
            f"sentinel parallel-syncs {NAME} 1",
        ]
        self._write(number, "sentinel.conf", lines)

    def _write(self, number: int, name: str, lines: list[str]) -> None:
        self.folder(number).mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder(number) / name, "".join(f"{line}\n" for line in lines))

    async def _named(self) -> list[Named]:
        """Return what each Sentinel says, or its file if it does not respond."""
        said = await asyncio.gather(*map(self.named_by, NUMBERS))
        found = [each or self._recorded_by(n) for n, each in enumerate(said)]
        return [each for each in found if each]

    async def named_by(self, number: int) -> Named | None:
        """Return which primary a Sentinel names, if it responds."""
        state = await self._state(number)
        if not state:
            return None
        return Named(int(state["config-epoch"]), self.ports.index(int(state["port"])))

    def _recorded_by(self, number: int) -> Named | None:
        with suppress(FileNotFoundError):
            text = (self.folder(number) / "sentinel.conf").read_text()
            [port] = re.findall(rf"^sentinel monitor {NAME} \S+ (\d+)", text, re.MULTILINE)
            epoch = re.findall(rf"^sentinel config-epoch {NAME} (\d+)", text, re.MULTILINE)
            return Named(int(epoch[0]) if epoch else 0, self.ports.index(int(port)))
        return None

    async def _is_linked(self, number: int) -> bool:
        """Whether a server is the primary with both replicas, or a replica with its primary."""
        info = await self._ask(self.ports[number], "INFO replication persistence")
        linked = "min_slaves_good_slaves:2" in info or "master_link_status:up" in info
        return linked and "loading:0" in info

    async def _knows_all(self, number: int) -> bool:
        """Whether a Sentinel knows the others and both replicas."""
        state = await self._state(number)
        return (state.get("num-other-sentinels"), state.get("num-slaves")) == ("2", "2")

    async def _state(self, number: int) -> dict[str, str]:
        """Return what a Sentinel knows of the primary; nothing if it does not respond."""
        reply = await self._ask(self.ports[3 + number], f"SENTINEL MASTER {NAME}")
        return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else {}

    # Importing redis-py would take longer than everything else that `voting up` does itself.
    async def _ask(self, port: int, command: str) -> Any:
        """Return the reply to a command: "" if there is none in time."""
        with suppress(OSError, EOFError):  # TimeoutError and IncompleteReadError are such
            async with asyncio.timeout(_ASK_TIMEOUT):
                reader, writer = await asyncio.open_connection(HOST, port)
                with closing(writer):
                    writer.write(f"AUTH {self.password}\r\n{command}\r\n".encode())
                    await _read_reply(reader)
                    return await _read_reply(reader)
        return ""


async def _read_reply(reader: asyncio.StreamReader) -> Any:
    """Return a list if the reply is one, and its text otherwise."""
    line = (await reader.readuntil(b"\n")).decode().strip()
    if line.startswith("*"):
        return [await _read_reply(reader) for _ in range(int(line[1:]))]
    if line.startswith("$"):
        return (await reader.readexactly(int(line[1:]) + 2)).decode().strip()
    return line


def has_queue(data: Path, *, replicated: bool) -> bool:
    """Whether `voting up` has kept a queue of that kind in this data directory."""
    return any(data.glob(f"{'machine-*' if replicated else 'valkey'}/appendonlydir"))


def _free_ports() -> list[int]:
    ports = random.sample(_PORTS, 100)
    return [port for port in ports if _is_free(port)][: 2 * len(NUMBERS)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False
