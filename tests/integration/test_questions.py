"""Questions that are prepared beforehand, with a real Postgres."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from support.database import execute, finish, question_of

from voting.commands import questions as questions_module
from voting.database.engine import DATABASE_ERRORS
from voting.database.poll import PollChanged, start_round
from voting.database.questions import (
    PreparedQuestion,
    QuestionChanged,
    add_questions,
    change_question,
    fetch_questions,
    move_question,
    remove_question,
)
from voting.database.totals import fetch_result
from voting.poll.ballot import Version
from voting.poll.question import Question

FIRST, SECOND, THIRD = (question_of(n, f"Question {n}?") for n in (2, 3, 12))


@pytest.fixture
async def three(operator):
    await add_questions(operator, [FIRST, SECOND, THIRD])
    return await fetch_questions(operator)


async def in_order(operator):
    return [each.question for each in await fetch_questions(operator)]


async def test_questions_are_kept_in_the_order_in_which_they_were_added(operator):
    assert await fetch_questions(operator) == []
    await add_questions(operator, [FIRST])
    await add_questions(operator, [SECOND, Question("قطط 🐈?", ('"One"', "a,b\\"))])
    found = await fetch_questions(operator)
    assert [each.question for each in found] == [
        FIRST,
        SECOND,
        Question("قطط 🐈?", ('"One"', "a,b\\")),
    ]
    assert len({each.id for each in found}) == 3


async def test_all_questions_are_added_or_none(operator):
    with pytest.raises(DATABASE_ERRORS):
        await add_questions(operator, [FIRST, Question("x" * 201)])
    assert await fetch_questions(operator) == []


async def test_questions_that_are_added_at_once_have_places_of_their_own(operator):
    pairs = [[question_of(2, f"{n} first"), question_of(2, f"{n} then")] for n in range(5)]
    await asyncio.gather(*(add_questions(operator, each) for each in pairs))
    found = await in_order(operator)
    assert sorted(each.title for each in found) == sorted(q.title for each in pairs for q in each)
    assert all(found[n : n + 2] in pairs for n in range(0, 10, 2))


async def test_a_question_is_changed_at_its_place_and_only_as_it_was_seen(operator, three):
    _, seen, _ = three
    await change_question(operator, seen, question_of(4))
    _, changed, _ = await fetch_questions(operator)
    assert changed == PreparedQuestion(seen.id, question_of(4), seen.revision + 1)
    with pytest.raises(QuestionChanged):  # by another operator, who has not seen the change
        await change_question(operator, seen, question_of(5))
    assert await remove_question(operator, seen.id)
    with pytest.raises(QuestionChanged):
        await change_question(operator, changed, question_of(5))
    assert await in_order(operator) == [FIRST, THIRD]


async def test_a_question_is_removed_once(operator, three):
    assert [await remove_question(operator, three[0].id) for _ in range(2)] == [True, False]
    assert await in_order(operator) == [SECOND, THIRD]


@pytest.mark.parametrize(
    ("moved", "places", "order"),
    [
        (0, 1, "bac"),
        (2, -1, "acb"),
        (0, 2, "bca"),
        (2, -2, "cab"),
        (1, 0, "abc"),
        (0, -1, "abc"),
        (2, 1, "abc"),
        (1, 9, "acb"),
        (1, -9, "bac"),
    ],
)
async def test_a_question_is_moved_and_stays_at_the_ends(operator, three, moved, places, order):
    await move_question(operator, three[moved].id, places)
    expected = [three["abc".index(each)] for each in order]
    assert await fetch_questions(operator) == expected  # and none is called changed
    await add_questions(operator, [question_of(5)])
    assert await in_order(operator) == [*(each.question for each in expected), question_of(5)]


async def test_moving_a_question_that_is_gone_changes_nothing(operator, three):
    await move_question(operator, max(each.id for each in three) + 1, -1)
    assert await fetch_questions(operator) == three


async def test_the_first_is_asked_and_leaves_the_list(engine, operator, three):
    await finish(engine, Version(10, 0))
    closes_at = datetime(2100, 1, 1, tzinfo=UTC)
    await start_round(operator, 1, FIRST, prepared=three[0].id, closes_at=closes_at)
    found = (await fetch_result(engine)).poll
    assert (found.round, found.question, found.asked) == (2, FIRST, True)
    assert found.closes_at == closes_at
    assert await in_order(operator) == [SECOND, THIRD]


@pytest.mark.parametrize(
    ("failing", "error", "said"),
    [
        ("fetch_questions", ConnectionError("no route"), "are changed, but can't be listed"),
        ("add_questions", TimeoutError("no answer"), "may have been changed: see `voting quest"),
        ("add_questions", ConnectionError("no route"), "the questions can't be reached"),
    ],
)
def test_the_command_says_whether_a_change_is_made(
    servers, database, monkeypatch, failing, error, said
):
    async def fail(*_):
        raise error

    urls = {
        "DATABASE_URL": servers.database_url(database, "voting_admin"),
        "REDIS_URL": servers.redis_url("admin"),
    }
    monkeypatch.setattr(questions_module, failing, fail)
    words = ["add", FIRST.title, *FIRST.names]
    found = CliRunner().invoke(questions_module.questions, words, env=urls)
    assert found.exit_code == 1
    [line] = found.output.splitlines()
    assert said in line
    assert line.endswith(str(error))


@pytest.mark.parametrize("change", ["title", "options", "removed"])
async def test_a_question_that_was_changed_meanwhile_is_not_asked(engine, operator, three, change):
    await finish(engine, Version(10, 0))
    before = (await fetch_result(engine)).poll
    if change == "removed":
        await remove_question(operator, three[0].id)
    else:
        other = {"title": "What?"} if change == "title" else {"names": ("One", "Two")}
        await change_question(operator, three[0], replace(FIRST, **other))
    with pytest.raises(PollChanged):
        await start_round(operator, 1, FIRST, prepared=three[0].id)
    found = (await fetch_result(engine)).poll
    assert (found, found.revision) == (before, before.revision)


async def test_a_question_that_can_not_be_asked_now_stays_in_the_list(engine, operator, three):
    with pytest.raises(PollChanged):  # the round is not final
        await start_round(operator, 1, FIRST, prepared=three[0].id)
    assert await fetch_questions(operator) == three
    await finish(engine, Version(10, 0))
    asked = (start_round(operator, 1, FIRST, prepared=three[0].id) for _ in range(2))
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(map(type, done), key=str) == sorted([type(None), PollChanged], key=str)
    assert await in_order(operator) == [SECOND, THIRD]
    assert (await execute(engine, "SELECT count(*) FROM rounds")).scalar_one() == 2
