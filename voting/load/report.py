"""What `voting load` says: a line a second, and the sum of all."""

import asyncio
import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from typing import Self

from voting.load.latency import Latencies
from voting.load.record import Expected, Outcome, Told, Writer

_START_OF_LINE = "\r"
_CLEAR = "\x1b[K"  # from here to the end of the line


def say(text: str, to: int = 1, end: str = "\n") -> None:
    # Who reads may be gone, as with `voting load | head`: that must not lose the record.
    with suppress(OSError):
        os.write(to, f"{text}{end}".encode())


class Report:
    """Hears what becomes of each vote, and tells a person, the record and what is expected.

    As a context it says a line each second, and the summary at the end. Latencies are of all
    votes, whatever came of them.
    """

    def __init__(self, expected: Expected | None, writer: Writer | None) -> None:
        self._expected = expected
        self._writer = writer
        self._told: Counter[Told] = Counter()
        self._all, self._second = Latencies(), Latencies()
        self._start = time.monotonic()
        self._terminal = os.isatty(1)

    def hear(self, told: Told, seconds: float, outcome: Outcome | None) -> None:
        self._told[told] += 1
        self._second.add(seconds)
        if outcome is not None:
            if self._expected is not None:
                self._expected.add(outcome)
            if self._writer is not None:
                self._writer.add(outcome)

    async def __aenter__(self) -> Self:
        self._start = time.monotonic()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ticking.cancel()
        self._all.include(self._second)
        seconds = time.monotonic() - self._start
        if self._terminal:
            say(_START_OF_LINE + _CLEAR, end="")
        say(self._line(seconds, self._all.count / seconds, self._all))

    async def _tick(self) -> None:
        last = self._start
        while True:
            await asyncio.sleep(self._start + round(last - self._start) + 1 - time.monotonic())
            now = time.monotonic()
            line = self._line(now - self._start, self._second.count / (now - last), self._second)
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                say(_START_OF_LINE + line[:width] + _CLEAR, end="")
            else:
                say(line)
            if self._writer is not None:
                self._writer.flush()
            self._all.include(self._second)
            self._second = Latencies()
            last = now

    def _line(self, seconds: float, rate: float, latencies: Latencies) -> str:
        yes, no, unknown = (self._told[each] for each in (Told.YES, Told.NO, Told.UNKNOWN))
        return (
            f"{seconds:.0f} s, {rate:,.0f}/s: {yes:,} acknowledged, {no:,} refused, "
            f"{unknown:,} unknown, p50 {_ms(latencies, 0.5)}, p99 {_ms(latencies, 0.99)}"
        )


def _ms(latencies: Latencies, share: float) -> str:
    seconds = latencies.quantile(share)
    return "-" if seconds is None else f"{seconds * 1000:,.3g} ms"
