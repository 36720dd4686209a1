"""Asking the question of the environment, as long as no voter is misled."""

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.database.engine import transaction
from voting.database.poll import (
    ASKING,
    Known,
    PollChanged,
    close_poll_to_ask,
    fetch_environment_question,
    fetch_poll,
    reopen_poll_not_asked,
    replace_unseen_question,
    start_environment_round,
)
from voting.database.totals import fetch_result
from voting.poll.lifecycle import LifecycleState, Phase, Poll
from voting.poll.question import Question
from voting.queue.client import StreamMissing
from voting.queue.state import QueueState
from voting.reconcile.integrity import Untrusted
from voting.reconcile.poll import finalize, reconcile

# Entries of an earlier round may still be delivered again.
_ATTEMPTS, _PAUSE = 25, 0.2  # seconds

log = structlog.get_logger(__name__)


async def follow_environment(engine: AsyncEngine, state: QueueState, question: Question) -> None:
    """Ask `question`, unless that is so already, there are votes, or another was asked.

    Pages may show the earlier question, and send votes for it at any moment: so this is a round of
    its own, and the earlier one is closed first. If it got a vote meanwhile, it is opened again.
    In any number of workers. Safe to retry. Raises PollConflict, redis' own errors and
    DATABASE_ERRORS.
    """
    async with transaction(engine) as connection:
        poll = await fetch_poll(connection)
        known = await fetch_environment_question(connection)
    if poll.closes_at != ASKING:
        if question == known:
            return
        seen = poll.has_queue or any(await state.poll_identity())
        if not seen and await replace_unseen_question(engine, question):
            return
        await reconcile(engine, state)
        result = await fetch_result(engine)
        poll = result.poll
        if poll.question == question and not poll.asked:
            return  # another worker was faster
        if poll.closes_at != ASKING:
            unvoted = not result.totals.votes and await _is_empty(state, poll)
            if poll.asked or not unvoted or poll.lifecycle_state is not LifecycleState.OPEN:
                _log_ignored()
                return
            with suppress(PollChanged):  # by another worker, or an operator
                await close_poll_to_ask(engine, poll)
    await _ask(engine, state, question)
    await reconcile(engine, state)


async def _ask(engine: AsyncEngine, state: QueueState, question: Question) -> None:
    """Ask the question in the next round, or open again the one that was closed for that."""
    poll, _ = await reconcile(engine, state)
    if poll.closes_at != ASKING:
        return
    with suppress(PollChanged):
        if poll.question != question:
            if await _is_empty(state, poll) and await _become_final(engine, state, poll):
                known = Known(rounds=(await state.poll_identity()).rounds)
                await start_environment_round(engine, poll.round, question, known=known)
                return
            _log_ignored()
        poll = (await fetch_result(engine)).poll
        if poll.closes_at == ASKING:
            await reopen_poll_not_asked(engine, poll)


async def _is_empty(state: QueueState, poll: Poll) -> bool:
    """Whether a closed round has no ballot."""
    first = await state.next_entry_after(poll.after_version)
    return first is None or (poll.last_version is not None and first > poll.last_version)


async def _become_final(engine: AsyncEngine, state: QueueState, poll: Poll) -> bool:
    """Declare the totals of a round without votes final. Return whether they are soon enough."""
    with suppress(Untrusted, StreamMissing):
        for _ in range(_ATTEMPTS):
            await finalize(engine, state, poll)
            found = (await fetch_result(engine)).poll  # another worker may have done it
            if found.round != poll.round or found.phase is Phase.FINAL:
                return True
            await asyncio.sleep(_PAUSE)
    return False


def _log_ignored() -> None:
    log.warning(
        "POLL_TITLE and OPTION_A to OPTION_L have been changed and are ignored: they are the first"
        " question only. `voting ask` asks the next"
    )
