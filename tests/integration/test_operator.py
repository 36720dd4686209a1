"""An operator leads a vote with the rights that the deployment gives the admin page."""

from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from support.database import all_counted, question_of
from support.wait import until
from support.workers import working

from voting.database.poll import close_poll, reopen_poll, reveal_results, start_round
from voting.database.questions import (
    add_questions,
    change_question,
    fetch_questions,
    move_question,
    remove_question,
)
from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version
from voting.poll.lifecycle import Phase, Poll
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState
from voting.reconcile.audit import audit
from voting.reconcile.changes import change_poll, fetch_settled_status, wait_until_final
from voting.roles import worker as worker_module

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
async def state(servers, stream):
    """The queue as the admin page has it."""
    queue = Queue(connect(servers.redis_url("admin")), name=stream.queue.name)
    yield QueueState(queue)
    await queue.close()


@pytest.fixture
def status(state, operator):
    return partial(fetch_settled_status, state, operator, "when_revealed")


async def test_an_operator_leads_a_vote(stream, state, status, engine, operator, monkeypatch):
    """Ask, close, open, reset, reveal, questions, audit; nothing but the counting is a worker's."""
    monkeypatch.setattr(worker_module, "READ_BLOCK", 0.05)
    change = partial(change_poll, state, operator)
    found = await status()  # which makes the queue
    assert (found.phase, found.backlog, found.dead_letters) == (Phase.OPEN, 0, 0)
    await add_questions(operator, [question_of(n) for n in (2, 3, 4)])
    first, second, third = await fetch_questions(operator)
    await move_question(operator, third.id, -2)
    await change_question(operator, first, question_of(5))
    assert await remove_question(operator, second.id)

    for choice in (Choice.A, Choice.B):
        await stream.cast(Ballot(uuid4(), choice))
    async with working(stream.queue, engine):
        await until(partial(all_counted, stream))
    found = await status()
    assert (found.counts.votes, found.counts.by_option) == (2, None)
    await reveal_results(operator, found.poll)
    assert (await status()).counts.by_option == (1, 1)
    assert (await audit(state, operator)).problems == []

    await change(partial(close_poll, at=LATER))
    await change(partial(reopen_poll, seen=(await status()).poll))
    await change(close_poll)
    assert not (await stream.cast_rules()).open
    await wait_until_final(state, operator, (await status()).poll, 30)
    await change(partial(reopen_poll, seen=(await status()).poll))
    await change(close_poll)
    await wait_until_final(state, operator, (await status()).poll, 30)

    asked = partial(start_round, question=question_of(4), prepared=third.id)
    await change(partial(asked, ended=1, closes_at=LATER))
    found = await status()
    assert (found.poll.round, found.poll.question, found.poll.revealed) == (
        2,
        question_of(4),
        False,
    )
    assert [each.counts for each in found.finals] == [(1, 1), (1, 1)]
    assert [each.question for each in await fetch_questions(operator)] == [question_of(5)]
    rules = await stream.cast_rules()
    assert (rules.round, rules.question, rules.closes_at) == (2, question_of(4), LATER)

    await change(partial(close_poll, seen=found.poll))
    await wait_until_final(state, operator, (await status()).poll, 30)
    await change(partial(start_round, ended=2, question=question_of(4)))
    assert (await status()).poll.round == 3
    assert (await audit(state, operator)).problems == []


async def test_an_operator_may_repair_the_queue_as_a_worker_does(stream, state):
    """A stream that is missing is made, above the versions that the database has."""
    newest = Version(2**45, 0)
    assert (await state.sync_poll(newest, Poll())).created
    await stream.admin.delete(stream.queue.stream_key)
    await stream.admin.xgroup_create(stream.queue.stream_key, "workers", mkstream=True)
    await state.sync_poll(newest, Poll())
    assert await stream.cast(Ballot(uuid4(), Choice.A)) > newest > MIN_VERSION
