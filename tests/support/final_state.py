"""Reads the final state of the app from its servers and its result page, for the checker."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from support.checker import FinalState, Vote
from support.database import fetch
from support.wait import until
from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.poll.ballot import Choice, Version
from voting.queue.client import StreamMissing
from voting.queue.state import QueueState

SETTLED = 60.0  # seconds after which ballots that are not counted are lost

_TALLY = "SELECT choice, sum(votes)::bigint FROM tally WHERE round = $1 GROUP BY choice"

# What was declared final, unless the poll was opened again.
_FINAL = """
SELECT choice, votes FROM final_totals, poll
WHERE final_totals.round = $1 AND final_totals.final_at = CASE poll.round
  WHEN $1 THEN poll.final_at
  ELSE (SELECT max(final_at) FROM finals WHERE finals.round = $1)
END
"""


class StateReader:
    """Reads the state of the app with that database, queue and result page."""

    def __init__(self, database_url: str, state: QueueState, result_url: str) -> None:
        self._database_url = database_url
        self._state = state
        self._queue = state.queue
        self._redis: Any = state.queue.redis
        self._result_url = result_url

    async def sql(self, statement: str, *arguments: Any) -> list[Any]:
        return await fetch(self._database_url, statement, *arguments)

    async def poll(self) -> str:
        """Return the identity of the poll, for which voters' cookies are signed."""
        [row] = await self.sql("SELECT database_id::text FROM poll")
        return str(row[0])

    async def round(self) -> int:
        [[number]] = await self.sql("SELECT round FROM poll")
        return int(number)

    async def settled(self) -> int | None:
        """Wait until the backlog is empty, or for too long, and return it."""
        backlog: int | None = None

        async def empty() -> bool:
            nonlocal backlog
            try:
                backlog = (await self._state.progress()).backlog
            except (RedisError, StreamMissing):
                return False
            return backlog == 0

        with suppress(TimeoutError):
            await until(empty, SETTLED)
        return backlog

    async def counts(self) -> Counter[Choice]:
        """Count the votes of each choice, one by one."""
        rows = await self.sql("SELECT choice, count(*) FROM votes GROUP BY choice")
        return Counter({Choice(choice): number for choice, number in rows})

    async def newest_entry(self) -> Version:
        info = await self._redis.xinfo_stream(self._queue.stream_key)
        return Version.parse(info["last-generated-id"])

    async def final_state(
        self, earlier: Counter[Choice], since: Version, *, kept: bool = True
    ) -> FinalState:
        """Wait until all is counted, and read the votes of the current round one by one.

        `earlier`: the votes from before the load, none of which is newer than `since`. `kept`:
        false if the queue was lost on purpose.
        """
        backlog = await self.settled()
        rows = await self.sql(
            "SELECT voter, choice, ms, seq FROM votes WHERE (ms, seq) > ($1, $2)", *since
        )
        letters = await self._redis.xrange(self._queue.dead_letters_key)
        return FinalState(
            votes={row[0].hex: Vote(Choice(row[1]), Version(row[2], row[3])) for row in rows},
            totals={"votes": await self.counts()},
            backlog=backlog,
            dead_letters={Version.parse(letter[b"id"]) for _, letter in letters},
            entries=await self._entries(since) if kept else None,
            earlier=earlier,
        )

    async def with_totals(self, states: Mapping[int, FinalState]) -> dict[int, FinalState]:
        """Add to the final states of rounds all totals that the app has of them by now."""
        return {
            number: replace(state, totals={**state.totals, **await self._totals(number)})
            for number, state in states.items()
        }

    async def _totals(self, number: int) -> dict[str, Counter[Choice]]:
        tally = _counter(await self.sql(_TALLY, number))
        totals = {"tally": tally, "the page": await self._page(number, tally)}
        if final := await self.sql(_FINAL, number):
            totals["the final result"] = _counter(final)
        return totals

    async def _entries(self, since: Version) -> dict[str, list[Version]]:
        found: dict[str, list[Version]] = {}
        for version, fields in await self._redis.xrange(self._queue.stream_key, f"({since}"):
            if len(fields.get(b"voter", b"")) == 16:
                found.setdefault(fields[b"voter"].hex(), []).append(Version.parse(version))
        return found

    async def _page(self, number: int, expected: Counter[Choice]) -> Counter[Choice]:
        """Read what the result role shows of a round, waiting for it to catch up."""
        shown: Counter[Choice] = Counter()

        async def as_expected() -> bool:
            nonlocal shown
            with suppress(PageError):
                totals = await fetch_totals(connection)
                if totals.round != number:
                    totals = await fetch_totals(connection, number)
                shown = Counter(totals.by_option)
            return shown == expected

        async with Connection(self._result_url) as connection:
            with suppress(TimeoutError):
                await until(as_expected, 20)
        return shown


def _counter(rows: Iterable[tuple[str, int]]) -> Counter[Choice]:
    return Counter({Choice(choice): votes for choice, votes in rows})
