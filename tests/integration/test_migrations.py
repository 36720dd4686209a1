"""A database of the version before, with rounds, and what is said of them afterwards."""

import asyncio
import os
import subprocess
import sys
from itertools import accumulate
from operator import add
from uuid import uuid4

import pytest
from alembic import command
from support.database import close_after, fetch, question_of

from voting.database import schema
from voting.database.engine import create_engine
from voting.database.export import open_snapshot
from voting.database.poll import (
    declare_final,
    fetch_environment_question,
    fetch_version_floor,
    start_round,
)
from voting.database.totals import fetch_final_results, fetch_past_result, fetch_result
from voting.poll import formats
from voting.poll.ballot import Version
from voting.poll.lifecycle import LifecycleState
from voting.poll.question import Question

QUESTION = Question("Pets?", ("قطط", "Dogs"))

# The tally of each round: the bucket, and the votes for a and b. The first rows are folded ones.
FIRST = [
    ("2029-12-30 23:59:50", 30, 20),
    ("2030-01-01 00:59:50", 5, 7),
    ("2030-01-01 12:00:00", 1, 0),
]
SECOND = [("2030-01-02 00:00:00", 4, 0), ("2030-01-02 00:00:10", -3, 3)]
THIRD = [
    ("2030-01-02 23:59:50", 1, 1),
    ("2030-01-03 00:59:50", 0, 2),
    ("2030-01-03 01:00:10", -1, 1),
]

EARLIER = f"""
INSERT INTO tally VALUES ('{FIRST[0][0]}+00', 30, 20, 4), ('{FIRST[1][0]}+00', 5, 7, 5);
UPDATE poll SET has_queue = true, state = 'closed', closed_at = '2030-01-01 01:00+00',
  until_ms = 9, until_seq = 1, final_at = '2030-01-01 01:01+00', revision = 3;
INSERT INTO finals VALUES (1, '2030-01-01 01:01+00', '2030-01-01 01:00+00', 35, 27);

UPDATE poll SET state = 'open', closed_at = NULL, until_ms = NULL, until_seq = NULL,
  final_at = NULL;
INSERT INTO tally VALUES ('{FIRST[2][0]}+00', 1, 0, 19);
UPDATE poll SET state = 'closed', closed_at = '2030-01-01 13:00+00', until_ms = 20, until_seq = 2,
  final_at = '2030-01-01 13:01+00', revision = 6;
INSERT INTO finals VALUES (1, '2030-01-01 13:01+00', '2030-01-01 13:00+00', 36, 27);
SELECT start_round(1);

INSERT INTO tally VALUES ('{SECOND[0][0]}+00', 4, 0, 31), ('{SECOND[1][0]}+00', -3, 3, 35);
UPDATE poll SET state = 'closed', closed_at = '2030-01-02 01:00+00', until_ms = 40, until_seq = 0,
  final_at = '2030-01-02 01:01+00';
INSERT INTO finals VALUES (2, '2030-01-02 01:01+00', '2030-01-02 01:00+00', 1, 3);
SELECT start_round(2);

INSERT INTO tally VALUES ('{THIRD[0][0]}+00', 1, 1, 51), ('{THIRD[1][0]}+00', 0, 2, 55),
  ('{THIRD[2][0]}+00', -1, 1, 59);
INSERT INTO votes SELECT gen_random_uuid(), 'b', 50 + n, n FROM generate_series(1, 4) AS n;
"""


@pytest.fixture
def earlier_url(servers):
    """A database of the version before, whose third round is open."""
    name = f"earlier_{uuid4().hex}"
    servers.sql(f"CREATE DATABASE {name}")
    url = servers.database_url(name)
    command.upgrade(schema.config(url), "0003")

    async def fill():
        for statement in EARLIER.split(";"):
            await fetch(url, statement)

    asyncio.run(fill())
    yield url
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(earlier_url):
    engine = create_engine(earlier_url, name="tests")
    yield engine
    await engine.dispose()


async def dump(url):
    """Read all rows of all tables."""
    tables = await fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: sorted(str(dict(row)) for row in await fetch(url, f"SELECT * FROM {name}"))
        for [name] in tables
    }


def sums(timeline):
    return tuple(map(sum, zip(*(each.counts for each in timeline), strict=True)))


async def exported(engine, number):
    async with open_snapshot(engine, "always", number) as snapshot:
        form = formats.TIMELINE["csv"](snapshot.result)
        return b"".join([piece async for piece in snapshot.timeline(form)]).decode()


def timeline(rows):
    """Return the export of a round as the version before wrote it, without times."""
    points = accumulate((row[1:] for row in rows), lambda one, more: tuple(map(add, one, more)))
    return [["votes", "a: قطط", "b: Dogs"], *([str(a + b), str(a), str(b)] for a, b in points)]


async def test_rounds_keep_their_totals_timelines_and_results(earlier_url, engine):
    [poll] = await fetch(earlier_url, "SELECT * FROM poll")
    before = await dump(earlier_url)
    await asyncio.to_thread(schema.migrate, earlier_url, QUESTION)
    await asyncio.to_thread(command.check, schema.config(earlier_url))

    found = await fetch_result(engine, timeline=True)
    assert (found.poll.round, found.poll.question, found.totals.counts) == (3, QUESTION, (0, 4))
    assert (found.poll.revision, found.poll.database_id) == (
        poll["revision"],
        str(poll["database_id"]),
    )
    assert (found.poll.after_version, found.poll.has_queue) == (Version(40, 0), True)
    assert sums(found.timeline) == (0, 4)
    assert found.poll.lifecycle_state is LifecycleState.OPEN
    async with engine.connect() as connection:
        assert await fetch_version_floor(connection) == Version(60, 0)
        # The question of the first round was that of the environment.
        assert await fetch_environment_question(connection) == QUESTION
        assert found.poll.asked
        for number, rows, totals in ((1, FIRST, (36, 27)), (2, SECOND, (1, 3))):
            past = await fetch_past_result(connection, number, timeline=True)
            assert (past.poll.question, past.totals.counts) == (QUESTION, totals)
            assert sums(past.timeline) == tuple(
                map(sum, zip(*(row[1:] for row in rows), strict=True))
            )
    for number, rows in enumerate((FIRST, SECOND, THIRD), start=1):
        lines = (await exported(engine, number)).splitlines()
        assert [line.split(",")[1:] for line in lines] == timeline(rows)
    finals = await fetch_final_results(engine)
    assert [(each.round, each.counts, each.revoked) for each in finals] == [
        (1, (35, 27), True),
        (1, (36, 27), False),
        (2, (1, 3), False),
    ]
    assert {each.question for each in finals} == {QUESTION}
    assert [f"{each.final_at:%d %H:%M} {each.closed_at:%d %H:%M}" for each in finals] == [
        "01 01:01 01 01:00",
        "01 13:01 01 13:00",
        "02 01:01 02 01:00",
    ]
    after = await dump(earlier_url)
    assert after["votes"] == before["votes"]
    assert after["poll"] == before["poll"]


async def test_a_database_that_was_final_stays_so_and_its_next_round_starts(earlier_url, engine):
    await fetch(
        earlier_url,
        "UPDATE poll SET state = 'closed', closed_at = now(), until_ms = 60, until_seq = 0,"
        " final_at = '2030-01-04+00'",
    )
    # Declared before the tally was altered.
    await fetch(earlier_url, "INSERT INTO finals VALUES (3, '2030-01-04+00', now(), 7, 8)")
    await asyncio.to_thread(schema.migrate, earlier_url, QUESTION)
    assert (await fetch_result(engine)).totals.counts == (7, 8)
    await start_round(engine, 3, question_of(12))
    found = await fetch_result(engine)
    assert (found.poll.round, found.totals.counts) == (4, (0,) * 12)
    assert [each.counts for each in await fetch_final_results(engine)][-1] == (7, 8)
    assert await fetch(earlier_url, "SELECT * FROM votes") == []


async def test_options_that_earlier_rounds_are_given_have_no_votes(earlier_url, engine):
    question = question_of(3)
    await asyncio.to_thread(schema.migrate, earlier_url, question)
    assert (await fetch_result(engine)).totals.counts == (0, 4, 0)
    found = await fetch_final_results(engine)
    assert [(each.question, each.counts) for each in found] == [
        (question, (35, 27, 0)),
        (question, (36, 27, 0)),
        (question, (1, 3, 0)),
    ]
    lines = (await exported(engine, 2)).splitlines()
    assert lines[-1].split(",")[1:] == ["4", "1", "3", "0"]


async def test_a_downgrade_restores_what_there_was(earlier_url):
    before = await dump(earlier_url)
    await asyncio.to_thread(schema.migrate, earlier_url, QUESTION)
    await asyncio.to_thread(command.downgrade, schema.config(earlier_url), "0003")
    assert await dump(earlier_url) == before
    # The function of that version is there again, for operators only.
    await fetch(
        earlier_url,
        "UPDATE poll SET state = 'closed', until_ms = 60, until_seq = 0, final_at = now()",
    )
    assert (await fetch(earlier_url, "SELECT start_round(3)"))[0][0] == 4
    [row] = await fetch(earlier_url, "SELECT count(*) FROM past_tally WHERE round = 3")
    assert row["count"] == 3
    await asyncio.to_thread(schema.migrate, earlier_url)
    await asyncio.to_thread(command.check, schema.config(earlier_url))


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "in an earlier round"])
async def test_a_downgrade_is_refused_where_a_round_has_three_options(earlier_url, engine, earlier):
    await asyncio.to_thread(schema.migrate, earlier_url, QUESTION)
    questions = [question_of(3), question_of(2)] if earlier else [question_of(3)]
    for number, question in enumerate(questions, start=3):
        last = Version(100 * number, 0)
        await close_after(engine, last)
        assert await declare_final(engine, last)
        await start_round(engine, number, question)
    await engine.dispose()
    before = await dump(earlier_url)
    with pytest.raises(Exception, match="violated by some row"):
        await asyncio.to_thread(command.downgrade, schema.config(earlier_url), "0003")
    assert await dump(earlier_url) == before
    await asyncio.to_thread(command.check, schema.config(earlier_url))
    assert (await fetch_result(engine)).poll.question == questions[-1]


async def test_the_command_takes_the_question_of_the_environment(earlier_url, engine):
    def migrate(**environ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "voting", "migrate"],
            env={**os.environ, "DATABASE_URL": earlier_url, **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    code, said = await asyncio.to_thread(migrate, OPTION_D="Fish")
    assert code != 0
    assert "OPTION_D: needs OPTION_C" in said
    asked = {"POLL_TITLE": "Pets?", "OPTION_A": "قطط", "OPTION_C": "Birds"}
    code, _ = await asyncio.to_thread(migrate, **asked)
    assert code == 0
    question = Question("Pets?", ("قطط", "Dogs", "Birds"))
    assert (await fetch_result(engine)).poll.question == question
    # A database that has a question keeps it.
    code, _ = await asyncio.to_thread(migrate, OPTION_A="Others")
    assert code == 0
    assert (await fetch_result(engine)).poll.question == question
