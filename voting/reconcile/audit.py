"""Checking, on a live system too, that queue, votes and tally agree."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from voting.database.counting import as_columns
from voting.database.durability import find_unsafe_settings
from voting.database.engine import read_only_snapshot, set_local
from voting.database.models import Vote
from voting.database.poll import fetch_poll, fetch_version_floor
from voting.poll.ballot import Version
from voting.poll.question import Question
from voting.queue.client import StreamMissing
from voting.queue.state import GroupProgress, QueueState
from voting.reconcile.entries import (
    cast_at,
    counted_versions,
    decode,
    find_gap,
    oldest_left,
    pages,
)

# A row for each option: its votes, and the highest `ms` of their versions. Also for votes for an
# option that the round does not have.
SUMS = text("""
SELECT
  key, coalesce(votes.votes, 0) AS votes, coalesce(votes.newest, 0) AS votes_newest,
  coalesce(tally.votes, 0)::bigint AS tally, coalesce(tally.newest, 0) AS tally_newest,
  final_totals.votes AS final
FROM (SELECT key, poll.round, final_at FROM poll JOIN options USING (round)) AS option
FULL JOIN (
  SELECT choice, count(*) AS votes, max(ms) AS newest FROM votes GROUP BY choice
) AS votes ON votes.choice = key
LEFT JOIN (
  SELECT round, choice, sum(votes) AS votes, max(ms) AS newest FROM tally GROUP BY round, choice
) AS tally ON (tally.round, tally.choice) = (option.round, key)
LEFT JOIN final_totals
  ON (final_totals.round, final_totals.final_at, final_totals.choice)
    = (option.round, option.final_at, key)
ORDER BY coalesce(key, votes.choice)
""")

# Text rather than SQLAlchemy constructs, so that any DBA can read it and run EXPLAIN on it.
#
# missing  entries that are counted although their voter has no vote
# behind   entries that are counted although their voter has an older vote
# matched  votes that equal their entry, counted or not
COMPARE = text("""
SELECT
  count(*) FILTER (WHERE counted AND stored.voter IS NULL) AS missing,
  count(*) FILTER (WHERE counted AND (stored.ms, stored.seq) < (ballot.ms, ballot.seq)) AS behind,
  count(*) FILTER (
    WHERE (stored.choice, stored.ms, stored.seq) = (ballot.choice, ballot.ms, ballot.seq)
  ) AS matched
FROM ROWS FROM (
  unnest(CAST(:voters AS uuid[])), string_to_table(CAST(:choices AS text), NULL),
  unnest(CAST(:ms AS bigint[])), unnest(CAST(:seq AS bigint[])), unnest(CAST(:counted AS boolean[]))
) AS ballot (voter, choice, ms, seq, counted)
LEFT JOIN votes AS stored USING (voter)
""")

VOTES_SINCE = select(func.count()).where(
    tuple_(Vote.ms, Vote.seq) >= tuple_(bindparam("ms"), bindparam("seq"))
)


# A line for each thing that may be wrong, or for the number of such things.
_PROBLEMS = {
    "no_queue": "the queue is missing: no worker has created it, or Redis has lost it",
    "no_option": "there are votes for options that the round does not have",
    "tally": "the tally is not the sum of the votes",
    "final": "the tally is not the final result",
    "old_tally": "the tally is older than the newest vote: ids of new ballots might not exceed it",
    "missing": "counted ballots of voters who have no vote: {}",
    "behind": "counted ballots newer than their voter's vote: {}",
    "altered": "votes that no ballot in the queue explains: {}",
    "undecodable": "entries that are neither ballots nor dead letters: {}",
    "dead_letters": "dead letters, which can't be counted: {}; inspect them",
}


@dataclass(frozen=True, slots=True)
class Audit:
    """What was compared; `problems` has a line for each thing that is wrong.

    A backlog is not a problem: its ballots are on disk and will be counted.
    """

    question: Question
    votes: tuple[int, ...]
    """Votes for each option, in the question's order."""
    tally: tuple[int, ...]
    entries: int
    """Ballots in the queue that are counted, each compared with the vote of its voter."""
    since: datetime | None
    """When the oldest of them was cast; older votes are only added up."""
    missing: int
    """Ballots whose voter has no vote."""
    behind: int
    """Ballots whose voter has an older vote."""
    altered: int
    """Votes since then that no ballot explains."""
    backlog: int | None
    pending: int
    oldest_pending_seconds: float | None
    dead_letters: int
    problems: list[str]


async def audit(state: QueueState, engine: AsyncEngine) -> Audit:
    """Compare the entries that the queue still has with the votes and the tally.

    `engine` must have no `patience`: adding up millions of votes takes longer than any other
    statement. Raises redis' own errors and DATABASE_ERRORS.
    """
    progress = oldest = None
    with suppress(StreamMissing):
        # First: what the queue calls counted by now is committed, so the snapshot has it.
        progress = await state.progress()
        oldest = await oldest_left(state, progress)
    dead_letters = await state.dead_letters()
    unsafe = await state.find_unsafe_settings()
    age = await _oldest_pending_seconds(state, progress)
    async with read_only_snapshot(engine) as snapshot:
        await snapshot.execute(set_local(statement_timeout="0"))
        votes, tally, wrong_sums = await _compare_sums(snapshot)
        unsafe += await find_unsafe_settings(snapshot)
        poll = await fetch_poll(snapshot)
        floor = await fetch_version_floor(snapshot)
        # Last: every vote of the snapshot was in the stream before.
        counted = counted_versions(progress, dead_letters, poll.after_version)
        found, since = await _compare_entries(state, snapshot, counted, poll.round)
    found.update(wrong_sums, no_queue=progress is None, dead_letters=len(dead_letters))
    problems = [line.format(found[name]) for name, line in _PROBLEMS.items() if found[name]]
    if gap := find_gap(oldest, floor, counted):
        problems.append(str(gap))
    if poll.queue_lost_at is not None:
        lost = f"{poll.queue_lost_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        problems.append(f"the queue was lost at {lost}: ballots not counted by then are missing")
    return Audit(
        question=poll.question,
        votes=votes,
        tally=tally,
        entries=found["entries"],
        since=since,
        missing=found["missing"],
        behind=found["behind"],
        altered=found["altered"],
        backlog=progress.backlog if progress else None,
        pending=progress.pending if progress else 0,
        oldest_pending_seconds=age,
        dead_letters=len(dead_letters),
        problems=unsafe + problems,
    )


async def _oldest_pending_seconds(
    state: QueueState, progress: GroupProgress | None
) -> float | None:
    if progress is None or progress.oldest_pending is None:
        return None
    await state.clock()
    return state.age(progress.oldest_pending)


async def _compare_sums(
    snapshot: AsyncConnection,
) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, bool]]:
    """Add up the votes and the tally. Returns both, and what is wrong with them."""
    found = (await snapshot.execute(SUMS)).all()
    rows = [row for row in found if row.key is not None]
    votes, tally = tuple(row.votes for row in rows), tuple(row.tally for row in rows)
    newest = max(row.tally_newest for row in rows)
    wrong = {
        "no_option": len(found) > len(rows),
        "tally": votes != tally,
        "final": any(row.final not in {None, row.tally} for row in rows),
        "old_tally": any(row.votes_newest > newest for row in rows),
    }
    return votes, tally, wrong


async def _compare_entries(
    state: QueueState, snapshot: AsyncConnection, counted: Callable[[Version], bool], number: int
) -> tuple[Counter[str], datetime | None]:
    """Compare the ballots of a round in the stream with the votes, in both directions.

    Each vote since the oldest entry that was read has to be one of the entries.
    """
    found: Counter[str] = Counter()
    oldest = since = None
    async for page in pages(state):
        decoded = decode(page)
        ballots = [each for each in decoded if each.is_of(number)]
        flags = [counted(each.version) for each in ballots]
        due = [each for each, flag in zip(ballots, flags, strict=True) if flag]
        compared = await snapshot.execute(COMPARE, {**as_columns(ballots), "counted": flags})
        found.update(compared.one()._asdict())
        found["entries"] += len(due)
        undecodable = {each.version for each in page} - {each.version for each in decoded}
        found["undecodable"] += sum(map(counted, undecodable))
        oldest = decoded[-1].version if decoded else oldest
        since = due[-1].version if due else since
    if oldest is not None:
        votes = (await snapshot.execute(VOTES_SINCE, oldest._asdict())).scalar_one()
        found["altered"] = votes - found["matched"]
    return found, since and cast_at(since)
