"""The latest answer to a question that many ask and that is worth asking once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Latest(Generic[_Answer]):
    """Asks at most every `interval` seconds however many want to know, and only if someone does.

    When asking fails with one of `errors`, the last answer stays and `failing_since` says since
    when (the event loop's clock, in seconds). Belongs to one event loop.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[_Answer]],
        *,
        interval: float,
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._ask = ask
        self._interval = interval
        self._errors = errors
        self._answer: _Answer | None = None
        self._asking: asyncio.Task[None] | None = None
        self._next = 0.0
        self.failing_since: float | None = None

    async def get(self) -> _Answer | None:
        """Return the latest answer; None where there never was one."""
        now = asyncio.get_running_loop().time()
        if self._asking is None and now >= self._next:
            self._next = now + self._interval
            self._asking = asyncio.create_task(self._refresh())
        # Who comes while it fails gets the old answer at once, rather than wait for a timeout.
        if self._asking is not None and (self.failing_since is None or self._answer is None):
            await asyncio.shield(self._asking)
        return self._answer

    async def _refresh(self) -> None:
        try:
            self._answer = await self._ask()
            self.failing_since = None
        except self._errors:
            if self.failing_since is None:
                self.failing_since = asyncio.get_running_loop().time()
        finally:
            self._asking = None
