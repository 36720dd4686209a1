"""Waiting for what happens elsewhere: on a condition, never for a time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from voting.database.engine import DATABASE_ERRORS

_Result = TypeVar("_Result")


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until `condition`, a function or coroutine function, holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                holds = condition()
                if isinstance(holds, Awaitable):
                    holds = await holds
                if holds:
                    return
            except (*DATABASE_ERRORS, ConnectionError):
                pass  # it is not there yet
            await asyncio.sleep(0.02)


def run_apart(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run it on a loop of another thread: this one may belong to Playwright."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(asyncio.run, coroutine).result()
