"""What the admin page shows: fetched once a second at most, for all open pages."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.questions import PreparedQuestion, fetch_questions
from voting.database.totals import fetch_last_results, fetch_result
from voting.poll.results import FinalResult, PollResult
from voting.queue.client import StreamMissing
from voting.queue.state import PollIdentity, QueueState, find_conflict
from voting.settings import SettingsError
from voting.web.cache import SingleFlight

TTL = 1.0  # seconds between two queries

# Seconds for which a server that is slow is not called away: a busy machine may need as long.
PATIENCE = 3.0

RATE_WINDOW = 5.0  # seconds over which votes a second are averaged


@dataclass(frozen=True, slots=True)
class QueueSample:
    """The queue at a moment."""

    backlog: int | None
    """Ballots that are not counted yet: as many voters wait for their receipt."""
    oldest: float
    """Seconds since the oldest of them was cast; 0 if there is none."""
    rate: float | None
    """Ballots a second in the last seconds; None before the second sample."""
    dead_letters: int
    known: PollIdentity


class Rate:
    """How fast a number grows, by the samples of the last RATE_WINDOW seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, at: float, number: int) -> float | None:
        """Return the growth a second up to this sample; None if it is the only one."""
        samples = self._samples
        if samples and number < samples[-1][1]:  # another stream
            samples.clear()
        samples.append((at, number))
        # Nothing is asked while no page is open: older samples say nothing about the last seconds.
        while at - samples[0][0] > RATE_WINDOW:
            samples.popleft()
        since, before = samples[0]
        return (number - before) / (at - since) if at > since else None


class Overview:
    """The latest values, each with its failures."""

    def __init__(self, state: QueueState, engine: AsyncEngine) -> None:
        self._state = state
        self._rate = Rate()
        self.result = SingleFlight[PollResult](partial(fetch_result, engine), ttl=TTL)
        self.questions = SingleFlight[list[PreparedQuestion]](
            partial(fetch_questions, engine), ttl=TTL
        )
        self.finals = SingleFlight[list[FinalResult]](partial(fetch_last_results, engine), ttl=TTL)
        self.queue = SingleFlight[QueueSample](self._sample, ttl=TTL)

    async def update(self, *, fresh: bool) -> None:
        """Fetch what is older than TTL or, if `fresh`, everything, as a form depends on it."""
        parts: tuple[SingleFlight[Any], ...]
        parts = (self.result, self.questions, self.finals, self.queue)
        await asyncio.gather(*(each.refresh() if fresh else each.get() for each in parts))

    @property
    def conflict(self) -> str | None:
        """Why Redis refuses the poll of this database, if it does."""
        if self.result.value is None or self.queue.value is None:
            return None
        return find_conflict(self.queue.value.known, self.result.value.poll)

    @property
    def queue_away(self) -> datetime | None:
        """Since when the queue can't be reached; None if it can."""
        return _away_since(self.queue)

    @property
    def database_away(self) -> datetime | None:
        return _away_since(self.result)

    async def ready(self) -> bool:
        """Whether both servers respond. Raises SettingsError if one can't be used."""
        if self.queue.value is None and not await self._has_queue():
            return False  # which is nothing to warn of, as a worker may start later
        parts = (self.result, self.queue)
        for each in parts:
            await each.get()
            if isinstance(each.error, SettingsError):
                raise each.error
        return all(each.value is not None and not each.stale for each in parts)

    async def _has_queue(self) -> bool:
        try:
            await self._state.progress()
        except StreamMissing:
            return False
        except RedisError:
            return True  # the sample tells
        return True

    async def _sample(self) -> QueueSample:
        progress = await self._state.progress()
        rate = self._rate.add(monotonic(), await self._state.entries_added())
        return QueueSample(
            backlog=progress.backlog,
            oldest=await self._state.backlog_age(progress),
            rate=rate,
            dead_letters=await self._state.dead_letter_count(),
            known=await self._state.poll_identity(),
        )


def _away_since(part: SingleFlight[Any]) -> datetime | None:
    since = part.failing_since
    if since is None or not isinstance(part.error, TimeoutError):
        return since
    return since if (datetime.now(UTC) - since).total_seconds() > PATIENCE else None
