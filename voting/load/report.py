"""What `voting load` prints: a progress line each second, and a summary."""

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from voting.load.latency import Latencies
from voting.load.record import Acknowledgement, VoteResult

_CLEAR_LINE = "\r\x1b[K"


def echo(text: str, to: int = 1, end: str = "\n") -> None:
    # A reader may have left, as with `voting load | head`: that must not lose the record.
    with suppress(OSError):
        os.write(to, f"{text}{end}".encode())


class Report:
    """Passes each vote on to `listeners`, and prints progress.

    A context: it prints a line each second, and the summary at the end. Latencies are of all votes,
    whatever their result.
    """

    def __init__(self, *listeners: Callable[[VoteResult], None]) -> None:
        self._listeners = listeners
        self._counts: Counter[Acknowledgement] = Counter()
        self._all, self._second = Latencies(), Latencies()
        self._start = time.monotonic()
        self._terminal = os.isatty(1)

    def record(
        self, acknowledgement: Acknowledgement, seconds: float, result: VoteResult | None
    ) -> None:
        self._counts[acknowledgement] += 1
        self._all.add(seconds)
        self._second.add(seconds)
        if result is not None:
            for each in self._listeners:
                each(result)

    async def __aenter__(self) -> Self:
        self._start = time.monotonic()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()
        seconds = time.monotonic() - self._start
        if self._terminal:
            echo(_CLEAR_LINE, end="")
        echo(self._line(seconds, self._all.count / seconds, self._all))

    async def _tick(self) -> None:
        last = self._start
        while True:
            await asyncio.sleep(self._start + round(last - self._start) + 1 - time.monotonic())
            now = time.monotonic()
            line = self._line(now - self._start, self._second.count / (now - last), self._second)
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                echo(_CLEAR_LINE + line[:width], end="")
            else:
                echo(line)
            self._second = Latencies()
            last = now

    def _line(self, seconds: float, rate: float, latencies: Latencies) -> str:
        acknowledged = self._counts[Acknowledgement.ACKNOWLEDGED]
        refused = self._counts[Acknowledgement.REFUSED]
        unknown = self._counts[Acknowledgement.UNKNOWN] + self._counts[Acknowledgement.NO_RESPONSE]
        return (
            f"{seconds:.0f} s, {rate:,.0f}/s: {acknowledged:,} acknowledged, {refused:,} refused, "
            f"{unknown:,} unknown, p50 {_ms(latencies, 0.5)}, p99 {_ms(latencies, 0.99)}"
        )


def _ms(latencies: Latencies, share: float) -> str:
    seconds = latencies.quantile(share)
    return "-" if seconds is None else f"{seconds * 1000:,.3g} ms"
