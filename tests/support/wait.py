"""Waits for conditions; no test waits for a time instead."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from voting.database.engine import DATABASE_ERRORS

# Seconds after which a test fails: long enough for a busy machine.
DEADLINE = 60.0

_PAUSE = 0.02  # seconds between two checks

_Result = TypeVar("_Result")


async def until(
    condition: Callable[[], Any],
    seconds: float = DEADLINE,
    *,
    check: Callable[[Any], object] = bool,
) -> None:
    """Wait until `condition`, a function or coroutine function, returns what `check` accepts.

    It may raise connection errors meanwhile. Raises TimeoutError.
    """
    async with asyncio.timeout(seconds):
        while True:
            try:
                holds = condition()
                if isinstance(holds, Awaitable):
                    holds = await holds
                if check(holds):
                    return
            except (*DATABASE_ERRORS, ConnectionError):
                pass  # the server does not accept connections yet
            await asyncio.sleep(_PAUSE)


def wait_for(
    what: str, condition: Callable[[], object], seconds: float = DEADLINE, pause: float = _PAUSE
) -> None:
    """Wait in a test without an event loop. Fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting for: {what}"
        time.sleep(pause)


def run_in_thread(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run it on an event loop of another thread: Playwright has one in this thread."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(asyncio.run, coroutine).result()
