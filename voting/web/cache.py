"""A cached value that concurrent requests share, and that one of them refreshes."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog

# Seconds for which a caller waits for a refresh before it gets the last value.
REFRESH_TIMEOUT = 1.0

log = structlog.get_logger(__name__)

_Value = TypeVar("_Value")


class SingleFlight(Generic[_Value]):
    """Refreshes a value on demand, at most once per `ttl` seconds, whatever the number of callers.

    If `fetch` raises or takes too long, callers get the last value, and `error` is the reason until
    a refresh succeeds. Belongs to one event loop.
    """

    def __init__(self, fetch: Callable[[], Awaitable[_Value]], *, ttl: float) -> None:
        self._fetch = fetch
        self._ttl = ttl
        self._refreshing: asyncio.Task[None] | None = None
        self._expires = 0.0
        self.value: _Value | None = None
        """The last value, without a refresh; None before the first."""
        self.error: Exception | None = None
        self.failing_since: datetime | None = None

    @property
    def stale(self) -> bool:
        return self.error is not None

    async def get(self) -> _Value | None:
        """Return the value, refreshed if its ttl is over; None if no refresh ever succeeded."""
        if asyncio.get_running_loop().time() >= self._expires:
            self._start()
        # While refreshes fail, callers get the last value at once instead of after a timeout.
        if not self.stale or self.value is None:
            await self._finish()
        return self.value

    async def refresh(self) -> _Value | None:
        """Return the value of a fetch that began after this call; if it fails, `stale` is true."""
        await self._finish()  # of an earlier fetch
        self._start()
        await self._finish()
        return self.value

    def _start(self) -> None:
        if self._refreshing is None:
            self._expires = asyncio.get_running_loop().time() + self._ttl
            self._refreshing = asyncio.create_task(self._refresh())

    async def _finish(self) -> None:
        if self._refreshing is not None:
            done, _ = await asyncio.wait({self._refreshing}, timeout=REFRESH_TIMEOUT)
            if not done:
                self._mark_stale(TimeoutError())

    async def _refresh(self) -> None:
        try:
            self.value = await self._fetch()
        except Exception as error:  # noqa: BLE001 - after any error, callers get the last value
            self._mark_stale(error)
        else:
            if self.stale:
                log.warning("refresh works again")
            self.error = self.failing_since = None
        finally:
            self._refreshing = None

    def _mark_stale(self, error: Exception) -> None:
        if not self.stale:
            self.failing_since = datetime.now(UTC)
            log.warning(
                "refresh failed, the last value is served",
                reason=f"{type(error).__name__}: {error}",
            )
        self.error = error
