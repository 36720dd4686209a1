"""Whether what counting relies on holds: durable settings, and votes that are still there."""

from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.counting import as_columns
from voting.database.durability import find_unsafe_settings
from voting.database.engine import transaction
from voting.database.poll import fetch_poll_for_share
from voting.queue.state import QueueState
from voting.reconcile.audit import COMPARE
from voting.reconcile.entries import counted_versions, decode

# The newest entries that are compared with the votes: at each run of a worker's maintenance, and
# before totals are declared final (0.2 s).
RECENT_ENTRIES = 100
FINAL_ENTRIES = 20_000


class Untrusted(Exception):
    """The totals can't be declared final; `problems` has a line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


async def find_problems(
    engine: AsyncEngine, state: QueueState, *, entries: int = RECENT_ENTRIES
) -> list[str]:
    """Return why totals can't be trusted now, a line each.

    Compares the newest `entries` of the queue with the votes: a database that crashed without
    having synced its disk, or that was restored, lacks votes that the queue calls counted. Raises
    StreamMissing, redis' own errors and DATABASE_ERRORS.
    """
    problems = await state.find_unsafe_settings()
    # First: what the queue calls counted by now is committed.
    progress = await state.progress()
    page = await state.entries_before(None, entries)
    letters = await state.dead_letters() if await state.dead_letter_count() else []
    # The poll can't change meanwhile: another round would have no votes.
    async with transaction(engine) as connection:
        poll = await fetch_poll_for_share(connection)
        problems += await find_unsafe_settings(connection)
        counted = counted_versions(progress, letters, poll.after_version, poll.last_version)
        ballots = [
            each for each in decode(page) if each.is_of(poll.round) and counted(each.version)
        ]
        flags = [True] * len(ballots)
        found = await connection.execute(COMPARE, {**as_columns(ballots), "counted": flags})
        compared = found.one()
    if missing := compared.missing + compared.behind:
        problems.append(
            f"Postgres lacks {missing} of the last {len(ballots)} counted ballots:"
            " `voting replay` counts them again"
        )
    return problems
