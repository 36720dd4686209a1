"""When a request arrived, and whether its client still waits for the response."""

import asyncio
import time
from collections.abc import Callable
from math import inf

# The key of a request's arrival in `extensions` of its ASGI scope.
ARRIVAL = "voting.arrival"

# Seconds after its arrival in which the work for a request has to begin.
MAX_WAIT = 2.0

# Seconds between two beats, and without one, after which this process was suspended.
_INTERVAL = 0.25
_MAX_GAP = 2.0

# Seconds after the end of a suspension. What is read in them may have waited in the kernel for
# as long as the suspension took.
_RECOVERY = 1.0


class Heartbeat:
    """Notices that this process did not run for a while: SIGSTOP, a paused machine, no processor.

    Looks at the wall clock too: the monotonic clock of a paused virtual machine may stand still.
    """

    def __init__(self) -> None:
        self._beat = inf
        self._wall = 0.0
        self._resumed = -inf

    async def run(self) -> None:
        """Beat until cancelled."""
        self._start()
        while True:
            await asyncio.sleep(_INTERVAL)
            jump = time.time() - self._wall - _INTERVAL
            self.check(jump=jump)
            self._start()

    def _start(self) -> None:
        self._beat, self._wall = time.monotonic(), time.time()

    def check(self, *, jump: float = 0.0) -> None:
        """Look for a gap; `jump` is by how many seconds the wall clock was ahead of its beat."""
        now = time.monotonic()
        if now - self._beat > _MAX_GAP or jump > _MAX_GAP:
            self._resumed = now
            self._start()

    def was_suspended(self, arrived: float) -> bool:
        """Whether a request that was read at `arrived` may have waited during a suspension."""
        return arrived - self._resumed < _RECOVERY


class Arrival:
    """A request: when it was complete, and its connection."""

    __slots__ = ("_at", "_heartbeat", "_is_closing")

    def __init__(self, heartbeat: Heartbeat, is_closing: Callable[[], bool]) -> None:
        self._heartbeat = heartbeat
        self._is_closing = is_closing
        self._at = inf

    def complete(self) -> None:
        self._at = time.monotonic()

    def is_current(self) -> bool:
        """Whether the client still waits, as far as this process can know."""
        return (
            time.monotonic() - self._at < MAX_WAIT
            and not self._is_closing()
            and not self._heartbeat.was_suspended(self._at)
        )
