"""Reads the final state of the app from its servers and its result page, for the checker."""

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from uuid import UUID

from support.checker import FinalState, Vote
from support.database import fetch
from support.wait import until
from voting.load.client import Connection
from voting.load.pages import PageError, fetch_totals
from voting.poll.ballot import Choice, Version
from voting.queue.client import StreamMissing
from voting.queue.state import QueueState

SETTLED = 60.0  # seconds after which ballots that are not counted are lost


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

    async def settled(self) -> int | None:
        """Wait until the backlog is empty, or for too long, and return it."""
        backlog: int | None = None

        async def empty() -> bool:
            nonlocal backlog
            try:
                backlog = (await self._state.progress()).backlog
            except StreamMissing:
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
        self, earlier: Counter[Choice], since: Version | None, voters: Collection[str]
    ) -> FinalState:
        """Wait until all is counted, and read the votes of `voters` one by one.

        `earlier`: the votes from before theirs. `since`: the newest entry before theirs; None if
        the queue was lost on purpose.
        """
        backlog = await self.settled()
        rows = await self.sql(
            "SELECT voter, choice, ms, seq FROM votes WHERE voter = ANY($1)",
            [UUID(each) for each in voters],
        )
        votes = {row[0].hex: Vote(Choice(row[1]), Version(row[2], row[3])) for row in rows}
        counts = await self.counts()
        strangers = counts - Counter(vote.choice for vote in votes.values()) - earlier
        [sums] = await self.sql("SELECT sum(a)::bigint, sum(b)::bigint FROM tally")
        tally = {Choice.A: sums[0] or 0, Choice.B: sums[1] or 0}
        letters = await self._redis.xrange(self._queue.dead_letters_key)
        # Votes beyond those are of voters that sent none.
        votes |= {
            f"stranger {index}": Vote(choice, Version(0, 0))
            for index, choice in enumerate(strangers.elements())
        }
        return FinalState(
            votes=votes,
            totals={"votes": counts, "tally": tally, "the page": await self._page(tally)},
            backlog=backlog,
            dead_letters={Version.parse(letter[b"id"]) for _, letter in letters},
            entries=None if since is None else await self._entries(since),
            earlier=earlier,
        )

    async def _entries(self, since: Version) -> dict[str, list[Version]]:
        found: dict[str, list[Version]] = {}
        for version, fields in await self._redis.xrange(self._queue.stream_key, f"({since}"):
            if len(fields.get(b"voter", b"")) == 16:
                found.setdefault(fields[b"voter"].hex(), []).append(Version.parse(version))
        return found

    async def _page(self, expected: dict[Choice, int]) -> dict[Choice, int]:
        """Read the totals of the result page, waiting for it to catch up."""
        shown: dict[Choice, int] = {}

        async def as_expected() -> bool:
            with suppress(PageError):
                totals = await fetch_totals(connection)
                shown.update({Choice.A: totals.a or 0, Choice.B: totals.b or 0})
            return shown == expected

        async with Connection(self._result_url) as connection:
            with suppress(TimeoutError):
                await until(as_expected, 20)
        return shown
