"""Checks from outside that queue, votes and tally agree, and counts again what a restore lost."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database import tally
from voting.poll.ballot import MAX_BIGINT, QueuedBallot, Version
from voting.queue.stream import BallotStream, Entry, GroupProgress, StreamMissing

PAGE = 10_000  # entries

_SUMS = text("""
SELECT * FROM (
  SELECT
    count(*) FILTER (WHERE choice = 'a') AS votes_a,
    count(*) FILTER (WHERE choice = 'b') AS votes_b,
    max(ms) AS newest_vote
  FROM votes
) AS votes, (
  SELECT coalesce(sum(a), 0) AS tally_a, coalesce(sum(b), 0) AS tally_b, max(ms) AS newest_tally
  FROM tally
) AS tally, (
  SELECT max(a) AS final_a, max(b) AS final_b FROM finals JOIN poll USING (round, final_at)
) AS final
""")

# missing  entries that are counted, though their voter has no vote
# behind   entries that are counted, though their voter has an older vote
# matched  votes that are what their entry says, counted or not
_COMPARE = text("""
SELECT
  count(*) FILTER (WHERE counted AND stored.voter IS NULL) AS missing,
  count(*) FILTER (WHERE counted AND (stored.ms, stored.seq) < (ballot.ms, ballot.seq)) AS behind,
  count(*) FILTER (
    WHERE (stored.choice, stored.ms, stored.seq) = (ballot.choice, ballot.ms, ballot.seq)
  ) AS matched
FROM unnest(
  CAST(:voters AS uuid[]), CAST(:choices AS text[]),
  CAST(:ms AS bigint[]), CAST(:seq AS bigint[]), CAST(:counted AS boolean[])
) AS ballot (voter, choice, ms, seq, counted)
LEFT JOIN votes AS stored USING (voter)
""")

_SINCE = text("SELECT count(*) FROM votes WHERE (ms, seq) >= (:ms, :seq)")

_LOST = text("""
SELECT voter
FROM unnest(CAST(:voters AS uuid[]), CAST(:ms AS bigint[]), CAST(:seq AS bigint[]))
  AS ballot (voter, ms, seq)
LEFT JOIN votes AS stored USING (voter)
WHERE stored.voter IS NULL OR (stored.ms, stored.seq) < (ballot.ms, ballot.seq)
""")


@dataclass(frozen=True, slots=True)
class Sums:
    """Votes for each option."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What was compared, and in `problems` a line for each thing that is wrong.

    A backlog is no problem: those ballots are on disk and are going to be counted.
    """

    votes: Sums
    tally: Sums
    entries: int
    """Ballots in the queue that are counted, each compared with the vote of its voter."""
    since: datetime | None
    """When the oldest of them was cast; votes older than that are only added up."""
    missing: int
    """Ballots whose voter has no vote."""
    behind: int
    """Ballots whose voter has an older vote."""
    altered: int
    """Votes of that time that no ballot explains."""
    backlog: int | None
    pending: int
    oldest_pending_seconds: float | None
    dead_letters: int
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Replay:
    """How many entries were looked at, kept since when, and how many votes had been lost."""

    entries: int
    votes: int
    since: datetime | None


async def audit(stream: BallotStream, engine: AsyncEngine) -> Audit:
    """Compare, on a live system too, what the queue still has with the votes and the tally.

    `engine` needs patience: millions of votes take longer to add up than any other statement.
    Raises redis' own errors and DATABASE_ERRORS.
    """
    # The queue's word first: what it calls counted is committed, and is in any later snapshot.
    try:
        progress = await stream.progress()
    except StreamMissing:
        progress = None
    letters = await stream.dead_letters()
    age = await _age(stream, progress)

    transactions = engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )
    async with transactions.begin() as snapshot:
        await snapshot.execute(text("SET LOCAL statement_timeout = 0"))
        sums = (await snapshot.execute(_SUMS)).one()
        after = (await tally.poll(snapshot)).after_version
        # The entries last: whatever the snapshot has was in the stream before.
        found, since = await _compare(stream, snapshot, _counted(progress, letters, after))

    return Audit(
        votes=Sums(sums.votes_a, sums.votes_b),
        tally=Sums(int(sums.tally_a), int(sums.tally_b)),
        entries=found["entries"],
        since=since,
        missing=found["missing"],
        behind=found["behind"],
        altered=found["altered"],
        backlog=progress.backlog if progress else None,
        pending=progress.pending if progress else 0,
        oldest_pending_seconds=age,
        dead_letters=len(letters),
        problems=list(_problems(progress, sums, found, len(letters))),
    )


async def replay(stream: BallotStream, engine: AsyncEngine) -> Replay:
    """Count again what the queue calls counted and the database, restored, does not have.

    Newest first, so that a voter is counted once. What is not counted yet is left to the workers,
    which may run meanwhile. Raises StreamMissing, redis' own errors and DATABASE_ERRORS.
    """
    async with engine.connect() as connection:
        poll = await tally.poll(connection)
    counted = _counted(
        await stream.progress(), await stream.dead_letters(), poll.after_version, poll.last_version
    )
    entries, votes, oldest = 0, 0, None
    async for page in _pages(stream):
        ballots = [each for each in _ballots(page) if counted(each.version)]
        newest = {each.voter: each for each in reversed(ballots)}
        async with engine.connect() as connection:
            lost = await connection.scalars(_LOST, tally.columns(list(newest.values())))
            again = [newest[voter.hex] for voter in lost]
        await tally.count(engine, again)
        entries += len(ballots)
        votes += len(again)
        oldest = ballots[-1].version if ballots else oldest
    return Replay(entries, votes, _time(oldest))


def _problems(
    progress: GroupProgress | None, sums: Row[Any], found: Counter[str], letters: int
) -> Iterator[str]:
    checks: tuple[tuple[bool | int, str], ...] = (
        (progress is None, "the queue is not there: no worker has made it, or Redis has lost it"),
        (
            (sums.votes_a, sums.votes_b) != (sums.tally_a, sums.tally_b),
            "the tally is not the sum of the votes",
        ),
        (
            sums.final_a is not None
            and (sums.final_a, sums.final_b) != (sums.tally_a, sums.tally_b),
            "the tally is not the final result",
        ),
        (
            (sums.newest_vote or 0) > (sums.newest_tally or 0),
            "the tally does not know of the newest vote: the ids of ballots might run back",
        ),
        (found["missing"], f"counted ballots of voters who have no vote: {found['missing']}"),
        (found["behind"], f"counted ballots newer than their voter's vote: {found['behind']}"),
        (found["altered"], f"votes that no ballot in the queue explains: {found['altered']}"),
        (
            found["undecodable"],
            f"entries that are no ballots, and not among the dead letters: {found['undecodable']}",
        ),
        (letters, f"dead letters, which can't be counted and want a look: {letters}"),
    )
    return (problem for wrong, problem in checks if wrong)


async def _age(stream: BallotStream, progress: GroupProgress | None) -> float | None:
    if progress is None or progress.oldest_pending is None:
        return None
    return max(0.0, await stream.clock() - progress.oldest_pending.ms / 1000)


async def _compare(
    stream: BallotStream, snapshot: AsyncConnection, counted: Callable[[Version], bool]
) -> tuple[Counter[str], datetime | None]:
    """Compare the stream with the votes, in both directions.

    Pages run from the new end to the old one. So they have all entries from the oldest that was
    seen on, also where workers trim, and each vote from there on has to be one of them.
    """
    found: Counter[str] = Counter()
    oldest = since = None
    async for page in _pages(stream):
        ballots = _ballots(page)
        due = [each for each in ballots if counted(each.version)]
        flags = [counted(each.version) for each in ballots]
        compared = await snapshot.execute(_COMPARE, {**tally.columns(ballots), "counted": flags})
        found.update(compared.one()._asdict())
        found["entries"] += len(due)
        found["undecodable"] += sum(counted(each.version) for each in page) - len(due)
        oldest = ballots[-1].version if ballots else oldest
        since = due[-1].version if due else since
    if oldest is not None:
        votes = (await snapshot.execute(_SINCE, oldest._asdict())).scalar_one()
        found["altered"] = votes - found["matched"]
    return found, _time(since)


async def _pages(stream: BallotStream) -> AsyncIterator[list[Entry]]:
    before = None
    while page := await stream.entries_before(before, PAGE):
        yield page
        before = page[-1].version


def _counted(
    progress: GroupProgress | None,
    letters: Sequence[Entry],
    after: Version,
    until: Version | None = None,
) -> Callable[[Version], bool]:
    """Make the test whether a ballot has to be among the votes, or a newer one of its voter.

    Those up to `after` belong to a round that is over, those above `until` to none.
    """
    dead_lettered = set()
    for letter in letters:
        with suppress(ValueError, KeyError):  # written by somebody else
            dead_lettered.add(Version.parse(letter.fields[b"id"]))

    def counted(version: Version) -> bool:
        if progress is None or version <= after or (until is not None and version > until):
            return False
        return progress.counted(version) and version not in dead_lettered

    return counted


def _ballots(entries: Sequence[Entry]) -> list[QueuedBallot]:
    """Decode those that a worker can count; the others are for the dead letters."""
    ballots = []
    for entry in entries:
        with suppress(ValueError):
            ballots.append(entry.ballot())
    return [each for each in ballots if max(each.version) <= MAX_BIGINT]


def _time(version: Version | None) -> datetime | None:
    return None if version is None else datetime.fromtimestamp(version.ms / 1000, UTC)
