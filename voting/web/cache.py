"""The latest answer to a question that many ask and that is worth asking once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

# How long who asks waits for a fresh answer before the last one has to do, in seconds.
PATIENCE = 1.0

log = structlog.get_logger(__name__)

_Answer = TypeVar("_Answer")


class Latest(Generic[_Answer]):
    """Asks at most every `interval` seconds however many want to know, and only if someone does.

    Where asking fails or takes too long, the last answer stays and `failing` is true until it
    works again. Belongs to one event loop.
    """

    def __init__(self, ask: Callable[[], Awaitable[_Answer]], *, interval: float) -> None:
        self._ask = ask
        self._interval = interval
        self._answer: _Answer | None = None
        self._asking: asyncio.Task[None] | None = None
        self._next = 0.0
        self.failing = False

    @property
    def last(self) -> _Answer | None:
        """The latest answer, without asking."""
        return self._answer

    async def get(self) -> _Answer | None:
        """Return the latest answer; None where there never was one."""
        now = asyncio.get_running_loop().time()
        if self._asking is None and now >= self._next:
            self._next = now + self._interval
            self._asking = asyncio.create_task(self._refresh())
        # Who comes while it fails gets the last answer at once, rather than wait for a timeout.
        if self._asking is not None and (not self.failing or self._answer is None):
            answered, _ = await asyncio.wait({self._asking}, timeout=PATIENCE)
            if not answered:
                self._fail(TimeoutError())
        return self._answer

    async def _refresh(self) -> None:
        try:
            self._answer = await self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, viewers keep the last answer
            self._fail(error)
        else:
            if self.failing:
                log.warning("fresh answers again")
            self.failing = False
        finally:
            self._asking = None

    def _fail(self, error: Exception) -> None:
        if not self.failing:
            log.warning("no fresh answer, the last one stays", reason=repr(error))
        self.failing = True
