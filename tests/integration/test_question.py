"""The question of the environment, which workers ask as long as that misleads no voter."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from unittest.mock import ANY
from uuid import uuid4

import pytest
from support import workers
from support.database import ask, execute, question_of, stored_totals
from support.wait import until

from voting.database.poll import (
    close_poll,
    close_poll_to_ask,
    declare_final,
    reopen_poll,
    start_round,
)
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.ballot import Ballot, Choice
from voting.poll.lifecycle import LifecycleState, Phase
from voting.poll.question import Question
from voting.queue.producer import RoundOver
from voting.reconcile import question as question_module
from voting.reconcile.poll import reconcile
from voting.reconcile.question import follow_environment
from voting.roles import worker as worker_module
from voting.roles.maintenance import Timing

NEW = question_of(3, "New?")
IGNORED = "have been changed and are ignored"


async def poll(engine):
    return (await fetch_result(engine)).poll


async def asked(engine):
    """Return the round, its question, and whether an operator has asked it."""
    found = await poll(engine)
    return found.round, found.question, found.asked


@pytest.fixture
async def seen(stream, engine):
    """A queue, so that pages may show the question."""
    await reconcile(engine, stream)
    return stream


async def test_a_question_that_no_page_has_shown_is_replaced(stream, engine, caplog):
    for question in (NEW, NEW, question_of(12), Question()):
        await follow_environment(engine, stream, question)
        assert await asked(engine) == (1, question, False)
    assert await stream.cast_rules() is None  # there is no queue yet
    assert caplog.records == []


async def test_without_votes_the_question_is_asked_in_a_round_of_its_own(seen, engine, caplog):
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (2, NEW, False)
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN
    rules = await seen.cast_rules()
    assert (rules.round, rules.question, rules.open) == (2, NEW, True)
    with pytest.raises(RoundOver):  # of a page with the question before
        await seen.cast(Ballot(uuid4(), Choice.A))
    await seen.cast(Ballot(uuid4(), Choice.C), 2)
    [first] = await fetch_final_results(engine)
    assert (first.round, first.question, first.counts) == (1, Question(), (0, 0))
    assert caplog.records == []


async def test_the_question_of_the_environment_may_change_again(seen, engine):
    for number, question in enumerate((NEW, Question(), question_of(12)), start=2):
        for _ in range(2):  # workers that start again change nothing
            await follow_environment(engine, seen, question)
            assert await asked(engine) == (number, question, False)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "queued"])
async def test_after_a_vote_another_question_is_ignored(seen, engine, caplog, counted):
    await seen.cast_many(1)
    if counted:
        async with workers.working(seen.queue, engine):
            await until(partial(stored_totals, engine), check=lambda totals: totals == (1, 0))
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (1, Question(), False)
    found = await poll(engine)
    assert found.lifecycle_state is LifecycleState.OPEN
    assert (await seen.cast_rules()).open
    await seen.cast_many(1)
    assert [each for each in caplog.messages if IGNORED in each] == [ANY]


async def end(engine, stream):
    """Close the poll and declare it final."""
    await close_poll(engine)
    closed, _ = await reconcile(engine, stream)
    assert await declare_final(engine, closed.last_version)


async def test_a_question_that_an_operator_has_asked_stays(seen, engine, caplog, operator):
    await end(engine, seen)
    await start_round(operator, 1, question_of(5))
    await reconcile(engine, seen)
    # The environment has not changed.
    await follow_environment(engine, seen, Question())
    assert caplog.records == []
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (2, question_of(5), True)
    assert [IGNORED in each for each in caplog.messages] == [True]
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN


@pytest.mark.parametrize("state", [LifecycleState.SCHEDULED, "closed", LifecycleState.FINAL])
async def test_in_any_state_but_open_another_question_is_ignored(seen, engine, caplog, state):
    at = datetime(2100, 1, 1, tzinfo=UTC)
    if state == LifecycleState.FINAL:
        await end(engine, seen)
    else:
        await close_poll(engine, at=at if state == LifecycleState.SCHEDULED else None)
    if state == "closed":
        await reconcile(engine, seen)
    before = await poll(engine)
    await follow_environment(engine, seen, NEW)
    assert await poll(engine) == before
    assert [IGNORED in each for each in caplog.messages] == [True]


async def test_workers_that_start_at_once_ask_it_once(seen, engine, caplog):
    await asyncio.gather(*(follow_environment(engine, seen, NEW) for _ in range(3)))
    assert await asked(engine) == (2, NEW, False)
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN
    assert (await seen.cast_rules()).open
    assert not any(IGNORED in each for each in caplog.messages)


async def test_a_vote_that_arrives_meanwhile_is_counted(seen, engine, monkeypatch):
    """Its voter saw the question before: the round of that one goes on."""

    async def vote_and_close(engine, known):
        await seen.cast(Ballot(uuid4(), Choice.B))
        await close_poll_to_ask(engine, known)

    monkeypatch.setattr(question_module, "close_poll_to_ask", vote_and_close)
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (1, Question(), False)
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN
    assert (await seen.cast_rules()).open
    await seen.cast(Ballot(uuid4(), Choice.B))
    async with workers.working(seen.queue, engine):
        await until(partial(stored_totals, engine), check=lambda totals: totals == (0, 2))


async def test_a_round_that_does_not_become_final_is_opened_again(seen, engine, admin, monkeypatch):
    monkeypatch.setattr(question_module, "_PAUSE", 0.01)
    await execute(admin, "ALTER TABLE votes SET UNLOGGED")  # so its totals can't be trusted
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (1, Question(), False)
    assert (await seen.cast_rules()).open


async def test_entries_of_an_earlier_round_that_stay_pending_keep_the_question(
    seen, engine, monkeypatch
):
    monkeypatch.setattr(question_module, "_PAUSE", 0.01)
    await follow_environment(engine, seen, question_of(2))
    await seen.admin.xadd(seen.queue.stream_key, {"no": "ballot"}, id="1-1")
    await seen.consumer("dead").read(count=1, block=1)
    await follow_environment(engine, seen, NEW)
    assert (await asked(engine))[:2] == (2, question_of(2))
    assert (await poll(engine)).phase is Phase.OPEN


async def test_what_an_operator_changes_meanwhile_holds(seen, engine, monkeypatch):
    async def close_first(engine, known):
        await close_poll(engine)
        await close_poll_to_ask(engine, known)  # raises PollChanged

    monkeypatch.setattr(question_module, "close_poll_to_ask", close_first)
    await follow_environment(engine, seen, NEW)
    assert (await poll(engine)).lifecycle_state is LifecycleState.COUNTING
    assert await asked(engine) == (1, Question(), False)


async def test_what_an_operator_opens_meanwhile_stays_open(seen, engine, monkeypatch):
    finalize = question_module.finalize

    async def reopen_first(engine, state, seen):
        await reopen_poll(engine, await poll(engine))
        return await finalize(engine, state, seen)

    monkeypatch.setattr(question_module, "finalize", reopen_first)
    monkeypatch.setattr(question_module, "_PAUSE", 0.01)
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (1, Question(), False)
    assert (await seen.cast_rules()).open


async def test_a_worker_asks_before_it_counts(stream, engine, monkeypatch):
    monkeypatch.setattr(worker_module, "READ_BLOCK", 0.05)
    timing = Timing(maintenance_interval=0.05)
    async with workers.working(stream.queue, engine, 2, question=NEW, timing=timing):
        assert await asked(engine) == (1, NEW, False)
    async with workers.working(stream.queue, engine, 2, question=question_of(12), timing=timing):
        await until(
            partial(asked, engine), check=lambda found: found == (2, question_of(12), False)
        )
        await until(stream.cast_rules, check=lambda rules: rules.round == 2 and rules.open)
        await stream.cast_many(4, Choice.L, number=2)
        expected = (*[0] * 11, 4)
        await until(partial(stored_totals, engine), check=lambda totals: totals == expected)


async def test_a_worker_without_a_question_leaves_it_alone(stream, engine):
    await ask(engine, NEW)
    async with workers.working(stream.queue, engine):
        assert await asked(engine) == (1, NEW, False)


class Killed(Exception):
    """Ends a worker at any moment."""


STEPS = ("reconcile", "finalize", "start_environment_round")


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("question", [NEW, Question()], ids=["the same", "the one before"])
async def test_what_a_killed_worker_began_is_completed_by_the_next(
    seen, engine, monkeypatch, step, done, question
):
    call = getattr(question_module, step)

    async def die(*arguments, **options):
        closing = (await poll(engine)).closes_at is not None
        if done or not closing:
            result = await call(*arguments, **options)
        if closing:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(question_module, step, die)
        with pytest.raises(Killed):
            await follow_environment(engine, seen, NEW)
    await follow_environment(engine, seen, question)
    await reconcile(engine, seen)  # as a worker does next
    # Also where it is another question that is to be asked by now.
    assert (await poll(engine)).question == question
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN
    rules = await seen.cast_rules()
    assert (rules.question, rules.open) == (question, True)


async def test_a_vote_that_a_killed_worker_did_not_see_keeps_the_question(
    seen, engine, monkeypatch
):
    async def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(question_module, "reconcile", die)
        await close_poll_to_ask(engine, await poll(engine))
        with pytest.raises(Killed):
            await follow_environment(engine, seen, NEW)
    await seen.cast_many(1)  # Redis does not know yet
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (1, Question(), False)
    assert (await seen.cast_rules()).open


async def test_a_round_that_a_worker_closed_a_moment_too_late_is_opened_again(
    seen, engine, monkeypatch
):
    """Another worker has asked the question since this one looked."""

    async def close_late(engine, known):
        monkeypatch.undo()
        await follow_environment(engine, seen, NEW)
        await close_poll_to_ask(engine, known)

    monkeypatch.setattr(question_module, "close_poll_to_ask", close_late)
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (2, NEW, False)
    assert (await poll(engine)).lifecycle_state is LifecycleState.OPEN


@pytest.mark.parametrize("scheduled", [False, True])
async def test_what_an_operator_asks_or_schedules_meanwhile_is_not_closed(
    seen, engine, monkeypatch, scheduled, operator
):
    at = datetime.now(UTC) + timedelta(hours=1)

    async def close_late(engine, known):
        if scheduled:
            await close_poll(engine, at=at)
        else:
            await end(engine, seen)
            await start_round(operator, 1, question_of(3))
        await close_poll_to_ask(engine, known)

    monkeypatch.setattr(question_module, "close_poll_to_ask", close_late)
    await follow_environment(engine, seen, NEW)
    found = await poll(engine)
    if scheduled:
        assert (found.question, found.closes_at) == (Question(), at)
    else:
        assert (found.round, found.question, found.asked) == (2, question_of(3), True)
    assert found.phase is Phase.OPEN


@pytest.mark.parametrize("done", ["asked", "closed"])
async def test_a_worker_that_looks_meanwhile_asks_nothing_twice(seen, engine, monkeypatch, done):
    first = reconcile

    async def be_slow(*arguments):
        monkeypatch.undo()
        if done == "asked":
            await follow_environment(engine, seen, NEW)
        else:
            await close_poll_to_ask(engine, await poll(engine))
        return await first(*arguments)

    monkeypatch.setattr(question_module, "reconcile", be_slow)
    await follow_environment(engine, seen, NEW)
    assert await asked(engine) == (2, NEW, False)
    assert (await seen.cast_rules()).open
