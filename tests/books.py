"""What an app at rest holds, read from its servers and its result page, for the checker."""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
from checker import Books, Vote
from client import Connection
from waiting import until

from voting.poll.ballot import Choice, Version
from voting.queue.stream import BallotStream, StreamMissing

SETTLED = 60.0  # seconds after which what is not counted is lost


class Ledger:
    """Reads the books of the app with that database, that stream and that result page."""

    def __init__(self, database_url: str, stream: BallotStream, result: str) -> None:
        self._database_url = database_url
        self._stream = stream
        self._redis: Any = stream._redis
        self._result = result

    async def sql(self, statement: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self._database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def settled(self) -> int | None:
        """Wait until the backlog is empty, or for too long, and return it."""
        backlog: int | None = None

        async def empty() -> bool:
            nonlocal backlog
            try:
                backlog = (await self._stream.progress()).backlog
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
        info = await self._redis.xinfo_stream(self._stream._stream)
        return Version.parse(info["last-generated-id"])

    async def books(
        self, before: Counter[Choice], since: Version | None, voters: Iterable[UUID]
    ) -> Books:
        """Read what is held, for `voters` row by row. The votes `before` theirs are only counted.

        `since`: the newest entry before theirs; None where the queue was lost on purpose.
        """
        backlog = await self.settled()
        rows = await self.sql(
            "SELECT voter, choice, ms, seq FROM votes WHERE voter = ANY($1)", list(voters)
        )
        votes = {row[0]: Vote(Choice(row[1]), Version(row[2], row[3])) for row in rows}
        mine = Counter(vote.choice for vote in votes.values())
        counts = await self.counts()
        strangers = counts - mine - before
        [sums] = await self.sql("SELECT sum(a)::bigint, sum(b)::bigint FROM tally")
        tally = {Choice.A: sums[0] or 0, Choice.B: sums[1] or 0}
        letters = await self._redis.xrange(self._stream._dead)
        # A vote that nobody sent is one of a voter nobody knows.
        votes |= {
            UUID(int=index): Vote(choice, Version(0, 0))
            for index, choice in enumerate(strangers.elements())
        }
        return Books(
            votes=votes,
            tallies={"votes": counts, "tally": tally, "the page": await self._page(tally)},
            backlog=backlog,
            dead={Version.parse(letter[b"id"]) for _, letter in letters},
            entries=None if since is None else await self._entries(since),
            others=before,
        )

    async def _entries(self, since: Version) -> dict[UUID, list[Version]]:
        found: dict[UUID, list[Version]] = {}
        for version, fields in await self._redis.xrange(self._stream._stream, f"({since}"):
            if len(fields.get(b"voter", b"")) == 16:
                voter = UUID(bytes=fields[b"voter"])
                found.setdefault(voter, []).append(Version.parse(version))
        return found

    async def _page(self, expected: dict[Choice, int]) -> dict[Choice, int]:
        """Read the totals that the result page shows, waiting a moment for it to catch up."""
        shown: dict[Choice, int] = {}

        async def as_expected() -> bool:
            answer = await connection.ask("GET", "/api/tally")
            votes = re.findall(r'"votes":(\d+)', answer.text)[:2]
            shown.update(zip(Choice, map(int, votes), strict=False))
            return shown == expected

        async with Connection(self._result) as connection:
            with suppress(TimeoutError):
                await until(as_expected, 20)
        return shown
