"""Child processes that are started again when they die, and that never outlive this one."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

START_SECONDS = 60.0
RESTART_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds; the last repeats
FULL_BYTES = 1_000_000  # a disk with less is why programs on it end
STEADY_SECONDS = 30.0  # a child that ran this long starts again with the shortest pause


class StartError(Exception):
    """The app can't be started; the message is for the person who tried."""


class Guardian:
    """A small process that kills all the children when this process dies, even by SIGKILL.

    The children are in its process group, so a Ctrl-C at the terminal doesn't reach them: this
    process stops them in order. It works wherever there is a shell, unlike Linux' parent-death
    signal. `held` is a file descriptor that stays open as long as anybody of the group lives.
    """

    def __init__(self, held: int) -> None:
        self.held = held
        # `cat` ends when this process, the only one to hold the pipe's other end, is gone. No other
        # signal than SIGKILL may end it: where one of the group is suspended when this process
        # goes, the kernel sends the group a SIGHUP; some tools send a SIGTERM to all there is.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", "trap '' HUP INT QUIT TERM; cat >/dev/null; kill -9 0"],
            stdin=subprocess.PIPE,
            process_group=0,
            pass_fds=(held,),
        )

    @property
    def group(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Kill whatever is left, itself included."""
        os.killpg(self.group, signal.SIGKILL)
        self._process.communicate()


@dataclass(frozen=True)
class Program:
    """What to run, and how to tell that it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    log: Path | None = None
    """Where its output goes; None for this process' own."""


@dataclass
class Child:
    """One program, kept running from `start` until `stop`."""

    program: Program
    guardian: Guardian
    say: Callable[[str], None]
    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _stopping: bool = False
    _log_start: int = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Run the program and wait until it is ready. Raises StartError."""
        process = await self._spawn()
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self.program.ready():
                    if process.returncode is not None:
                        raise StartError(f"{self.program.name} {_end(process)}{self._last_words()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            message = f"{self.program.name} was not ready in {START_SECONDS:.0f} s"
            raise StartError(message + self._last_words()) from None
        self._keeper = asyncio.create_task(self._keep(process))

    async def stop(self, seconds: float) -> None:
        """Ask it to end, and make it end after `seconds`."""
        self._stopping = True
        if self._process is None or self._process.returncode is not None:
            await self._cancel()
            return
        self._process.send_signal(self.program.stop_signal)
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self.say(f"{self.program.name} did not stop in {seconds:.0f} s and is killed")
            self._process.kill()
            await self._process.wait()
        await self._cancel()

    async def _cancel(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pauses = _pauses()
        while True:
            started = loop.time()
            await process.wait()
            if self._stopping:
                return
            if loop.time() - started > STEADY_SECONDS:
                pauses = _pauses()
            self.say(f"{self.program.name} {_end(process)}: starting it again{self._last_words()}")
            process = await self._spawn_after(pauses)

    async def _spawn_after(self, pauses: Iterator[float]) -> asyncio.subprocess.Process:
        while True:
            await asyncio.sleep(next(pauses))
            try:
                return await self._spawn()
            except OSError as error:  # no memory, too many processes, programs being replaced
                self.say(f"{self.program.name} can't be started: {error}: trying again")

    async def _spawn(self) -> asyncio.subprocess.Process:
        output = self.program.log.open("ab") if self.program.log else None
        if output:
            self._log_start = output.tell()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                env=dict(self.program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output and subprocess.STDOUT,
                process_group=self.guardian.group,
                pass_fds=(self.guardian.held,),
                user=self.program.user,
                group=self.program.user,
                extra_groups=None if self.program.user is None else [],
            )
        finally:
            if output:
                output.close()
        return self._process

    def _last_words(self) -> str:
        if self.program.log is None:
            return ""
        try:
            full = shutil.disk_usage(self.program.log.parent).free < FULL_BYTES
            with self.program.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 2000))
                lines = log.read().decode(errors="replace").splitlines()[-4:]
        except OSError:
            return ""
        return (" (its disk is full)" if full else "") + "".join(f"\n    {line}" for line in lines)


def _pauses() -> Iterator[float]:
    return chain(RESTART_PAUSES, repeat(RESTART_PAUSES[-1]))


def _end(process: asyncio.subprocess.Process) -> str:
    code = process.returncode
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
