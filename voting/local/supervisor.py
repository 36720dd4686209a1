"""Child processes that are restarted when they die and never outlive this process."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

START_TIMEOUT = 60.0  # seconds
RESTART_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds; the last repeats
STABLE_SECONDS = 30.0  # the delays start again from the first after a child ran this long
FULL_DISK_BYTES = 1_000_000  # with less free, a full disk is the likely cause of an exit


class StartError(Exception):
    """The app can't be started. The message is for the user."""


class Guardian:
    """A small process that kills all the children when this process dies, even by SIGKILL.

    The children are in its process group, so Ctrl-C at the terminal does not reach them: this
    process stops them in order. It works on every system with a shell, unlike Linux' parent-death
    signal. `lock` is a file descriptor that all processes of the group inherit, and so keep open.
    """

    def __init__(self, lock: int) -> None:
        self.lock = lock
        # `cat` ends when this process ends, which alone has the other end of the pipe. Only SIGKILL
        # may end the guardian: if a process of the group is suspended when this process ends, the
        # kernel sends SIGHUP to the group; some tools send SIGTERM to all processes.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", "trap '' HUP INT QUIT TERM; cat >/dev/null; kill -9 0"],
            env={"PATH": os.defpath},  # the user's may lack `cat`
            stdin=subprocess.PIPE,
            process_group=0,
            pass_fds=(lock,),
        )
        self.group = self._process.pid

    def close(self) -> None:
        """Kill all processes that are left in the group, and the guardian."""
        os.killpg(self.group, signal.SIGKILL)
        self._process.communicate()


@dataclass(frozen=True)
class Program:
    """A command, and a check that it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    log: Path | None = None
    """The file for its output; None for the output of this process."""
    umask: int = -1
    """-1: that of this process."""
    prepare: Callable[[], Awaitable[None]] | None = None
    """Awaited before each start."""


@dataclass
class Child:
    """A program that is restarted whenever it ends, from `start` until `stop`."""

    program: Program
    guardian: Guardian
    report: Callable[[str], None]
    _process: asyncio.subprocess.Process | None = None
    _monitoring: asyncio.Task[None] | None = None
    _log_start: int = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Run the program and wait until it is ready. Raises StartError."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                process = await self._spawn()
                while not await self.program.ready():
                    if process.returncode is not None:
                        raise StartError(f"{self.program.name} {_exit(process)}{self._log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            message = f"{self.program.name} was not ready in {START_TIMEOUT:.0f} s"
            raise StartError(message + self._log_tail()) from None
        except OSError as error:
            raise StartError(f"{self.program.name} can't be started: {error}") from None
        self._monitoring = asyncio.create_task(self._monitor(process))

    async def stop(self, seconds: float) -> None:
        """Send the stop signal, and SIGKILL after `seconds`."""
        if self._monitoring is not None:
            self._monitoring.cancel()
            await asyncio.wait({self._monitoring})
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(self.program.stop_signal)
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self.report(f"{self.program.name} did not stop in {seconds:.0f} s and is killed")
            self._process.kill()
            await self._process.wait()

    async def _monitor(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        delays = _delays()
        while True:
            started = loop.time()
            await process.wait()
            if loop.time() - started > STABLE_SECONDS:
                delays = _delays()
            self.report(f"{self.program.name} {_exit(process)}, restarting{self._log_tail()}")
            process = await self._respawn(delays)

    async def _respawn(self, delays: Iterator[float]) -> asyncio.subprocess.Process:
        while True:
            await asyncio.sleep(next(delays))
            try:
                return await self._spawn()
            except OSError as error:  # out of memory, too many processes, a program being replaced
                self.report(f"{self.program.name} can't be restarted, retrying: {error}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self.program.prepare is not None:
            await self.program.prepare()
        with self.program.log.open("ab") if self.program.log else nullcontext() as output:
            self._log_start = output.tell() if output else 0
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                env=dict(self.program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                process_group=self.guardian.group,
                pass_fds=(self.guardian.lock,),
                umask=self.program.umask,
                user=self.program.user,
                group=self.program.user,
                extra_groups=None if self.program.user is None else [],
            )
        return self._process

    def _log_tail(self) -> str:
        if self.program.log is None:
            return ""
        try:
            full = shutil.disk_usage(self.program.log.parent).free < FULL_DISK_BYTES
            with self.program.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 2000))
                lines = log.read().decode(errors="replace").splitlines()[-4:]
        except OSError:
            return ""
        return (" (its disk is full)" if full else "") + "".join(f"\n    {line}" for line in lines)


def _delays() -> Iterator[float]:
    return chain(RESTART_DELAYS, repeat(RESTART_DELAYS[-1]))


def _exit(process: asyncio.subprocess.Process) -> str:
    code = process.returncode
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


async def responds(
    connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    request: bytes,
    expected: bytes,
) -> bool:
    """Whether the server responds to `request` with a line that contains `expected`."""
    with suppress(OSError):
        reader, writer = await connecting
        with closing(writer):
            writer.write(request)
            return expected in await reader.readline()
    return False
