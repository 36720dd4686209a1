"""An operator's change of the poll, made in Postgres and then in Redis.

For commands and the admin page.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Protocol

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import DATABASE_ERRORS, in_one_line, is_uncertain
from voting.database.poll import Known, PollChanged
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.lifecycle import Phase, Poll
from voting.poll.message import Message, ngettext
from voting.poll.message import gettext as _
from voting.poll.results import PublicFinal, ShowResults, VoteCounts, publish, publish_final
from voting.queue.client import StreamMissing
from voting.queue.state import PollConflict, PollIdentity, QueueState, find_conflict
from voting.reconcile.integrity import Untrusted
from voting.reconcile.poll import finalize, reconcile

POLL_INTERVAL = 0.2  # seconds between two checks whether the totals are final


class ChangeError(Exception):
    """Why a change is not known to be done. The message is for the operator."""


class NotInRedis(ChangeError):
    """The change is stored in Postgres, and a worker will bring it to Redis."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the poll, as an operator needs it before a change."""

    poll: Poll
    phase: Phase
    counts: VoteCounts
    backlog: int | None
    """Accepted ballots that are not counted yet; None if unknown, as are the dead letters."""
    dead_letters: int | None
    finals: list[PublicFinal]
    """The last totals that were declared final, the newest last."""
    conflict: str | None
    """Why nothing is counted until an operator has decided, if that is so."""


class Change(Protocol):
    """A change of `voting.database.poll`, with what it changes."""

    async def __call__(self, engine: AsyncEngine, /, *, known: Known) -> None: ...


async def fetch_status(state: QueueState, engine: AsyncEngine, show_results: ShowResults) -> Status:
    """Return the status, without what `show_results` hides. Raises DATABASE_ERRORS."""
    known = PollIdentity()
    with suppress(RedisError):  # Postgres alone is enough for a change
        known = await state.poll_identity()
    result = publish(await fetch_result(engine), show_results)
    conflict = find_conflict(known, result.poll)
    letters, backlog = None, await count_backlog(state)
    with suppress(RedisError):
        letters = await state.dead_letter_count()
    finals = [publish_final(each, show_results) for each in await fetch_final_results(engine)]
    phase = result.poll.phase
    return Status(result.poll, phase, result.counts, backlog, letters, finals, conflict)


async def fetch_settled_status(
    state: QueueState, engine: AsyncEngine, show_results: ShowResults
) -> Status:
    """Return the status, for which a close whose time has come is stored first.

    Raises DATABASE_ERRORS.
    """
    with suppress(PollConflict, StreamMissing, RedisError):  # Postgres alone is enough for a change
        await reconcile(engine, state)
    return await fetch_status(state, engine, show_results)


async def count_backlog(state: QueueState) -> int | None:
    """Return how many accepted ballots are not counted yet; None if that is unknown."""
    with suppress(StreamMissing, RedisError):
        return (await state.progress()).backlog
    return None


async def change_poll(
    state: QueueState,
    engine: AsyncEngine,
    change: Change,
    *,
    then: str = "a worker will retry",
) -> None:
    """Change the poll in Postgres, and at once in Redis; a worker would do that within seconds.

    By what Redis knows: its clock, and the latest revision. Raises ChangeError if it is not known
    whether the poll is changed, and NotInRedis if Redis does not have the change yet: `then` ends
    this message. Raises PollChanged and DATABASE_ERRORS if nothing is changed.
    """
    known = Known()
    with suppress(RedisError):
        _, revision, rounds = await state.poll_identity()
        known = Known(revision, datetime.fromtimestamp(await state.clock(), UTC), rounds)
    try:
        await change(engine, known=known)
    except DATABASE_ERRORS as error:
        if not is_uncertain(error):
            raise
        # A commit may wait for a standby, and take effect later.
        raise ChangeError(
            f"the poll may have been changed: see `voting status`: {in_one_line(error)}"
        ) from None
    try:
        await reconcile(engine, state)
    except (PollConflict, RedisError, *DATABASE_ERRORS) as error:
        raise NotInRedis(
            f"the change is stored in Postgres, but not in Redis yet: {then}: {in_one_line(error)}"
        ) from None


async def wait_until_final(
    state: QueueState,
    engine: AsyncEngine,
    seen: Poll,
    seconds: float = inf,
    *,
    show: Callable[[Message], object] = lambda _: None,
) -> None:
    """Wait for the totals to be final, and declare them so, as a worker would within seconds.

    Calls `show` with what is still missing, whenever that changes. Raises PollChanged if the round
    that was `seen` is opened again, or another has begun; if it was closed when it was `seen`, also
    if it was opened and closed meanwhile. Raises ChangeError after so many `seconds`.
    """
    reason, shown = "", None
    end = asyncio.get_running_loop().time() + seconds
    was_closed = seen.phase is not Phase.OPEN
    while True:
        poll = (await fetch_result(engine)).poll
        if (
            poll.round != seen.round
            or poll.phase is Phase.OPEN
            or (was_closed and poll.revision != seen.revision)
        ):
            raise PollChanged
        if poll.phase is Phase.FINAL:
            return
        try:
            if await finalize(engine, state, poll):
                continue
        except Untrusted as error:
            reason = str(error)
        except (StreamMissing, RedisError):
            pass
        if asyncio.get_running_loop().time() >= end:
            late = f"the poll is closed, but its totals are not final after {seconds:g} s"
            raise ChangeError(f"{late}: {reason}" if reason else late)
        said = _missing(reason, await count_backlog(state))
        if said != shown:
            show(said)
            shown = said
        await asyncio.sleep(POLL_INTERVAL)


def _missing(reason: str, backlog: int | None) -> Message:
    if reason:
        return _("Waiting for final totals: %(reason)s.", reason=reason)
    if backlog is None:
        return _("Waiting for final totals.")
    return ngettext(
        "Waiting for final totals: %(num)s left to count.",
        "Waiting for final totals: %(num)s left to count.",
        backlog,
    )
