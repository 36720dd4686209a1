import asyncio
import random
import re
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import text
from support.database import (
    all_counted,
    ask,
    back_up,
    close_after,
    execute,
    insert_tally,
    question_of,
    restore,
    stored_totals,
    stored_votes,
)
from support.wait import until
from support.workers import working

from voting.database import counting, durability
from voting.database import engine as database
from voting.database.engine import DATABASE_ERRORS, create_engine
from voting.database.poll import (
    Known,
    close_poll,
    declare_final,
    fetch_version_floor,
    record_queue_loss,
    start_round,
)
from voting.poll.ballot import Ballot, Choice
from voting.poll.lifecycle import Poll
from voting.queue.client import StreamMissing
from voting.reconcile import audit as audit_module
from voting.reconcile import entries
from voting.reconcile.audit import audit
from voting.reconcile.integrity import find_problems
from voting.reconcile.poll import finalize, reconcile
from voting.reconcile.replay import replay
from voting.roles import maintenance
from voting.roles import worker as worker_module
from voting.roles.maintenance import Timing

QUESTION = question_of(5)


@pytest.fixture(autouse=True)
def short_reads_and_pages(monkeypatch):
    monkeypatch.setattr(worker_module, "READ_BLOCK", 0.05)
    monkeypatch.setattr(entries, "PAGE", 7)


async def count(stream, engine):
    """Count the entries of the stream, as a worker does."""
    consumer = stream.consumer("counting")
    entries = await consumer.read(count=10_000, block=0.05)
    await counting.count(engine, [entry.ballot() for entry in entries])
    await consumer.acknowledge([each.id for each in entries])


async def tables(engine):
    """Read all rows, each with the transaction that wrote it."""
    query = "SELECT xmin::text, t.* FROM {} t"
    return [(await execute(engine, query.format(table))).all() for table in ("votes", "tally")]


@pytest.fixture
async def healthy(prepared, engine):
    """Twenty votes for a, ten for b; five of the b voters had voted for a. One version each ms."""
    voters = [uuid4() for _ in range(30)]
    for choice, chosen in ((Choice.A, voters[:25]), (Choice.B, voters[20:])):
        for voter in chosen:
            await prepared.cast(Ballot(voter, choice))
            await asyncio.sleep(0.002)
    await count(prepared, engine)
    return prepared


OLDEST = "voter = (SELECT voter FROM votes ORDER BY ms, seq LIMIT 1)"
NEWEST = "voter = (SELECT voter FROM votes ORDER BY ms DESC, seq DESC LIMIT 1)"


# Nothing is wrong


async def test_traced_ballots_are_audited_and_replayed_like_others(prepared, engine, admin):
    traces = [None, f"00-{'a' * 32}-{'b' * 16}-01", None]
    await asyncio.gather(*(prepared.cast(Ballot(uuid4(), Choice.B, trace)) for trace in traces))
    await prepared.append({"voter": uuid4().bytes, "choice": b"b", "trace": b"nonsense"})
    await count(prepared, engine)
    found = await audit(prepared, engine)
    assert (found.problems, found.entries, found.votes) == ([], 4, (0, 4))
    for table in ("votes", "tally"):
        await execute(admin, f"DELETE FROM {table}")
    assert (await replay(prepared, engine)).votes == 4
    assert (await audit(prepared, engine)).votes == (0, 4)


async def test_healthy_poll_has_no_problems(healthy, engine):
    found = await audit(healthy, engine)
    assert found.problems == []
    assert (found.votes, found.tally) == ((20, 10), (20, 10))
    assert found.entries == 35
    assert (found.missing, found.behind, found.altered) == (0, 0, 0)
    assert (found.backlog, found.pending, found.oldest_pending_seconds) == (0, 0, None)
    assert found.dead_letters == 0
    assert 0 <= (datetime.now(UTC) - found.since).total_seconds() < 60


async def test_poll_without_votes_has_no_problems(prepared, engine):
    found = await audit(prepared, engine)
    assert found.problems == []
    assert (found.votes, found.entries, found.since) == ((0, 0), 0, None)


async def test_trimmed_or_recreated_queue_is_not_a_problem(healthy, engine):
    await healthy.consumer("me").trim()
    assert await healthy.length() == 1
    found = await audit(healthy, engine)
    assert (found.problems, found.entries) == ([], 1)

    await healthy.admin.delete(healthy.queue.stream_key)
    async with engine.connect() as connection:
        await healthy.sync_poll(await fetch_version_floor(connection), Poll())
    found = await audit(healthy, engine)
    assert (found.problems, found.entries) == ([], 0)


async def test_backlog_is_reported_and_not_a_problem(healthy, engine):
    await healthy.cast_many(20, Choice.B)
    pending = await healthy.consumer("slow").read(count=12, block=1)
    found = await audit(healthy, engine)
    assert found.problems == []
    assert (found.entries, found.backlog, found.pending) == (35, 20, 12)
    oldest = await healthy.clock() - pending[0].version.ms / 1000
    assert 0 <= found.oldest_pending_seconds <= oldest

    # Committed and not acknowledged: pending entries explain these votes.
    await counting.count(engine, [entry.ballot() for entry in pending])
    found = await audit(healthy, engine)
    assert (found.problems, found.votes) == ([], (20, 22))


async def test_unknown_backlog_is_not_a_problem(healthy, engine):
    first, *_ = await healthy.cast_many(3)
    await healthy.consumer("me").read(count=1, block=1)
    await healthy.admin.xdel(healthy.queue.stream_key, str(first))
    await healthy.admin.execute_command(
        "XGROUP", "SETID", healthy.queue.stream_key, "workers", "1-1"
    )
    found = await audit(healthy, engine)
    assert (found.problems, found.backlog) == ([], None)


async def test_audit_changes_nothing(healthy, engine):
    before = await tables(engine)
    await audit(healthy, engine)
    assert await tables(engine) == before
    await healthy.cast_many(1)
    await count(healthy, engine)  # the connections are not read-only


async def test_audit_may_take_longer_than_other_statements(healthy, database_url, monkeypatch):
    slow = audit_module.SUMS.text.replace("SELECT", "SELECT pg_sleep(1.1),", 1)
    monkeypatch.setattr(audit_module, "SUMS", text(slow))
    monkeypatch.setitem(database.SESSION, "statement_timeout", "1s")
    engine = create_engine(database_url, name="tests")
    assert (await audit(healthy, engine)).problems == []
    with pytest.raises(DATABASE_ERRORS):  # the timeout is back
        await execute(engine, "SELECT pg_sleep(1.1)")
    await engine.dispose()


async def test_audits_under_load_find_no_problem(stream, engine, database_url, monkeypatch):
    monkeypatch.setattr(maintenance, "RETENTION_MEMORY", 0)
    monkeypatch.setattr(entries, "PAGE", 10)
    auditors = create_engine(database_url, name="tests")
    await ask(engine, QUESTION)
    voters = [uuid4() for _ in range(200)]
    compared = set()

    async def vote():
        while True:
            await stream.cast(Ballot(random.choice(voters), random.choice(QUESTION.choices)))
            await asyncio.sleep(0.02)

    timing = Timing(maintenance_interval=0.05)
    async with working(stream.queue, engine, 2, timing=timing):
        voting = [asyncio.create_task(vote()) for _ in range(20)]
        # Until they have compared something: more than a page of entries, which came, were trimmed.
        while len(compared) < 5:
            found = await audit(stream, auditors)
            assert found.problems == []
            if found.entries > entries.PAGE:
                compared.add(found.since)
        for each in voting:
            each.cancel()
        await asyncio.gather(*voting, return_exceptions=True)
    assert (await audit(stream, auditors)).problems == []
    await auditors.dispose()


# Something is wrong


@pytest.mark.parametrize("row", [OLDEST, NEWEST], ids=["oldest", "newest"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE votes SET choice = CASE choice WHEN 'a' THEN 'b' ELSE 'a' END",
        "UPDATE votes SET ms = ms + 1",
        "UPDATE votes SET ms = ms - 1",
        "UPDATE votes SET seq = seq + 1",
        "UPDATE votes SET seq = seq - 1",
        "UPDATE votes SET voter = gen_random_uuid()",
        "DELETE FROM votes",
    ],
)
async def test_altered_vote_is_a_problem(healthy, engine, change, row, admin):
    await execute(admin, f"{change} WHERE {row}")
    found = await audit(healthy, engine)
    assert found.problems
    # The queue alone shows it, whether or not the tally agrees.
    assert found.missing + found.behind + found.altered > 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tally SET votes = votes + 1 WHERE choice = 'a'",
        "UPDATE tally SET votes = votes - 1 WHERE choice = 'b'",
        "UPDATE tally SET ms = ms - 1",
        "UPDATE tally SET votes = votes + CASE choice WHEN 'a' THEN -1 ELSE 1 END",
        "DELETE FROM tally",
        "INSERT INTO tally VALUES (1, to_timestamp(0), 'a', 1, 1)",
    ],
)
async def test_altered_tally_is_a_problem(healthy, engine, change, admin):
    await execute(admin, change)
    [*problems] = (await audit(healthy, engine)).problems
    assert problems
    assert all("tally" in each for each in problems)


@pytest.mark.parametrize("when", ["ms", "ms + 100000"])
async def test_forged_vote_and_tally_are_a_problem(healthy, engine, when, admin):
    made_up = f"SELECT gen_random_uuid(), 'a', {when}, seq + 1 FROM votes WHERE {NEWEST}"
    await execute(admin, f"INSERT INTO votes {made_up}")
    change = "UPDATE tally SET votes = votes + (choice = 'a')::int, ms = ms + 100000"
    await execute(admin, change)
    found = await audit(healthy, engine)
    assert found.problems == ["votes that no ballot in the queue explains: 1"]


async def test_forged_vote_differs_from_the_tally(healthy, engine, admin):
    await execute(admin, "INSERT INTO votes VALUES (gen_random_uuid(), 'b', 1, 1)")
    found = await audit(healthy, engine)
    assert found.problems == ["the tally is not the sum of the votes"]
    assert (found.votes, found.tally) == ((20, 11), (20, 10))


async def test_a_vote_for_an_option_that_the_round_does_not_have_is_a_problem(
    healthy, engine, admin
):
    await execute(admin, "INSERT INTO votes VALUES (gen_random_uuid(), 'c', 1, 1)")
    found = await audit(healthy, engine)
    assert found.problems == ["there are votes for options that the round does not have"]
    assert (found.votes, found.tally) == ((20, 10), (20, 10))


@pytest.mark.parametrize("counts", [(1, 0), (3, 0, 2, 1), (0,) * 11 + (5,)])
async def test_each_option_of_the_question_is_audited(prepared, engine, admin, counts):
    question = await ask(engine, len(counts))
    for choice, number in zip(question.choices, counts, strict=True):
        await prepared.cast_many(number, choice)
    await count(prepared, engine)
    found = await audit(prepared, engine)
    assert (found.problems, found.question) == ([], question)
    assert (found.votes, found.tally) == (counts, counts)
    # A vote that moved from one option to another, in the tally only.
    last = question.choices[-1]
    at = f"SELECT now() - interval '1 hour', ARRAY[-1{', 0' * (len(counts) - 2)}, 1], 1"
    await insert_tally(admin, at)
    found = await audit(prepared, engine)
    assert found.problems == ["the tally is not the sum of the votes"]
    assert found.tally == (counts[0] - 1, *counts[1:-1], counts[-1] + 1)
    await execute(
        admin, f"DELETE FROM tally WHERE choice = '{last}' AND bucket < now() - interval '30 min'"
    )
    assert (await audit(prepared, engine)).problems == ["the tally is not the sum of the votes"]


async def test_votes_of_other_rounds_are_not_audited(prepared, engine, admin):
    await execute(admin, "INSERT INTO rounds VALUES (7, 'Which?', true)")
    await execute(admin, "INSERT INTO options VALUES (7, 'a', 'One'), (7, 'c', 'Three')")
    await insert_tally(admin, "SELECT now(), ARRAY[5], 99", 7)
    await prepared.cast_many(2)
    await count(prepared, engine)
    found = await audit(prepared, engine)
    assert (found.problems, found.votes, found.tally) == ([], (2, 0), (2, 0))


@pytest.mark.parametrize("options", [2, 3, 12])
async def test_final_totals_that_differ_from_the_tally_are_a_problem(
    prepared, engine, admin, options
):
    question = await ask(engine, options)
    for choice in question.choices:
        await prepared.cast_many(1, choice)
    await count(prepared, engine)
    last = (await prepared.entries_before(None, 1))[0].version
    await close_after(engine, last)
    assert await declare_final(engine, last)
    assert (await audit(prepared, engine)).problems == []
    await execute(
        admin, f"UPDATE final_totals SET votes = 2 WHERE choice = '{question.choices[-1]}'"
    )
    [problem] = (await audit(prepared, engine)).problems
    assert "final" in problem


async def test_ballots_acknowledged_but_not_counted_are_a_problem(healthy, engine):
    await healthy.cast_many(3)
    taken = await healthy.consumer("liar").read(count=10, block=1)
    await healthy.consumer("me").acknowledge([each.id for each in taken])
    found = await audit(healthy, engine)
    assert found.problems == ["counted ballots of voters who have no vote: 3"]


async def test_dead_letter_is_one_problem(healthy, engine):
    # These entries are ballots: without the dead letters they would be missing votes.
    await healthy.cast_many(2)
    for entry in await healthy.consumer("me").read(count=10, block=1):
        await healthy.consumer("me").dead_letter(entry, "refused")
    found = await audit(healthy, engine)
    assert found.problems == ["dead letters, which can't be counted: 2; inspect them"]
    assert (found.dead_letters, found.entries) == (2, 35)


async def test_malformed_dead_letter_does_not_stop_the_audit(healthy, engine):
    for fields in ({"id": "nonsense"}, {"reason": "none"}):
        await healthy.admin.xadd(healthy.queue.dead_letters_key, fields)
    assert (await audit(healthy, engine)).dead_letters == 2


@pytest.mark.parametrize(
    ("fields", "seq"),
    [({"voter": b"short", "choice": b"a"}, 0), ({"voter": uuid4().bytes, "choice": b"a"}, 2**63)],
)
async def test_undecodable_entry_is_a_problem_until_it_is_a_dead_letter(
    prepared, engine, fields, seq
):
    await prepared.append(fields, f"{int(await prepared.clock() * 1000)}-{seq}")
    me = prepared.consumer("me")
    [entry] = await me.read(count=10, block=1)
    assert (await audit(prepared, engine)).problems == []  # it is still pending
    await me.acknowledge([entry.id])
    found = await audit(prepared, engine)
    assert found.problems == ["entries that are neither ballots nor dead letters: 1"]
    await me.dead_letter(entry, "no ballot")
    found = await audit(prepared, engine)
    assert found.problems == ["dead letters, which can't be counted: 1; inspect them"]


async def test_missing_queue_is_a_problem_and_the_rest_is_checked(healthy, engine, admin):
    await healthy.admin.delete(healthy.queue.stream_key)
    await execute(admin, "UPDATE tally SET votes = votes + 1")
    found = await audit(healthy, engine)
    assert found.problems == [
        "the queue is missing: no worker has created it, or Redis has lost it",
        "the tally is not the sum of the votes",
    ]
    assert (found.backlog, found.pending, found.entries) == (None, 0, 0)


async def test_a_lost_queue_is_a_problem(healthy, engine):
    await record_queue_loss(engine, datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    found = await audit(healthy, engine)
    assert found.problems == [
        "the queue was lost at 2030-01-02 03:04:05 UTC: ballots not counted by then are missing"
    ]


async def test_unsafe_settings_are_problems(healthy, engine, admin, monkeypatch):
    monkeypatch.setattr(durability, "NAMES", ["fsync"])
    await execute(admin, "ALTER TABLE tally SET UNLOGGED")
    found = await audit(healthy, engine)
    assert found.problems == ["Postgres: fsync is off", "Postgres: table tally is unlogged"]


# A database that was restored from a backup, and a queue that has deleted old entries


async def restored(stream, engine, admin, *, lost, trimmed, left=1):
    """Cast and count votes; lose the newest in Postgres, and trim the queue to the last `left`."""
    for _ in range(6):
        await stream.cast_many(1)
        await asyncio.sleep(0.005)
    await count(stream, engine)
    if lost:
        newest = f"SELECT voter FROM votes ORDER BY ms DESC LIMIT {lost}"
        await execute(admin, f"DELETE FROM votes WHERE voter IN ({newest})")
        await execute(admin, "UPDATE tally SET ms = (SELECT coalesce(max(ms), 0) FROM votes)")
    if trimmed:
        await stream.admin.xtrim(stream.queue.stream_key, maxlen=left, approximate=False)


@pytest.mark.parametrize("left", [0, 2])
async def test_votes_that_neither_server_has_are_a_gap(prepared, engine, admin, left):
    await restored(prepared, engine, admin, lost=4, trimmed=True, left=left)
    gap = r"votes cast after [0-9: -]{19} before [0-9: -]{19} UTC may be missing"
    found = (await audit(prepared, engine)).problems
    assert [each for each in found if re.match(gap, each)]
    replayed = await replay(prepared, engine)
    assert re.match(gap, str(replayed.gap))
    assert replayed.votes == left


async def test_an_empty_database_beside_a_trimmed_queue_is_a_gap(prepared, engine, admin):
    await restored(prepared, engine, admin, lost=6, trimmed=True)
    assert (await replay(prepared, engine)).gap.since is None


@pytest.mark.parametrize(
    ("lost", "trimmed", "left"), [(0, True, 0), (0, True, 1), (4, False, 6), (1, True, 2)]
)
async def test_there_is_no_gap_where_one_of_the_servers_has_each_vote(
    prepared, engine, admin, lost, trimmed, left
):
    await restored(prepared, engine, admin, lost=lost, trimmed=trimmed, left=left)
    assert (await replay(prepared, engine)).gap is None
    # Nor where what follows is not counted yet.
    await prepared.cast_many(1)
    await prepared.consumer("dead").read(count=1, block=0.01)
    await prepared.admin.xtrim(prepared.queue.stream_key, maxlen=1, approximate=False)
    assert (await replay(prepared, engine)).gap is None


# Replay


async def test_replay_writes_nothing_if_nothing_was_lost(healthy, engine):
    await healthy.cast_many(5)  # not counted yet: left to the workers
    before = await tables(engine)
    found = await replay(healthy, engine)
    assert (found.entries, found.votes) == (35, 0)
    assert found.since == (await audit(healthy, engine)).since
    assert await tables(engine) == before


async def test_replay_counts_what_a_restored_database_lacks(healthy, engine, admin):
    before = await stored_votes(engine)
    # As after a restore: six votes are missing, two are older than the voters' last choice.
    await execute(admin, "DELETE FROM votes WHERE voter IN (SELECT voter FROM votes LIMIT 6)")
    changed = "SELECT voter FROM votes WHERE choice = 'b' ORDER BY ms LIMIT 2"
    await execute(admin, f"UPDATE votes SET choice = 'a', ms = 1 WHERE voter IN ({changed})")
    await execute(
        admin,
        "UPDATE tally SET votes = (SELECT count(*) FROM votes WHERE votes.choice = tally.choice)",
    )
    assert len((await audit(healthy, engine)).problems) == 2

    assert (await replay(healthy, engine)).votes == 8
    assert await stored_votes(engine) == before
    found = await audit(healthy, engine)
    assert (found.problems, found.tally) == ([], (20, 10))
    assert (await replay(healthy, engine)).votes == 0


async def test_replay_leaves_ballots_of_rounds_that_a_restored_database_does_not_know(
    stream, engine, admin, operator
):
    voters = [uuid4() for _ in range(9)]

    async def vote(those, choice, number=1):
        for voter in those:
            await stream.cast(Ballot(voter, choice), number)
        await count(stream, engine)

    async def close():
        await close_poll(engine, known=Known((await stream.poll_identity()).revision))
        closed, _ = await reconcile(engine, stream)
        assert await finalize(engine, stream, closed)

    await reconcile(engine, stream)
    await vote(voters[:4], Choice.A)
    await back_up(admin)
    await vote(voters[3:], Choice.B)
    votes = await stored_votes(engine)
    await close()
    await start_round(operator, 1, question_of(3))
    await reconcile(engine, stream)
    await vote([*voters, uuid4()], Choice.A, 2)
    await vote(voters[2:], Choice.C, 2)
    await restore(admin)

    found = await replay(stream, engine)
    assert (found.entries, found.votes, found.left, found.gap) == (10, 6, 17, None)
    assert (await stored_votes(engine), await stored_totals(engine)) == (votes, (3, 6))
    assert await find_problems(engine, stream) == []
    audited = await audit(stream, engine)
    assert (audited.problems, audited.entries) == ([], 10)
    await close()
    assert await stored_totals(engine) == (3, 6)
    # Its last version is above all of them by now.
    assert (await replay(stream, engine)).left == 17
    assert (await audit(stream, engine)).problems == []


async def test_a_vote_from_a_ballot_of_another_round_is_a_problem(prepared, engine, admin):
    voter = uuid4()
    fields = {"voter": voter.bytes, "choice": b"2a"}
    version = await prepared.append(fields)
    await count(prepared, engine)
    assert (await audit(prepared, engine)).problems == []
    values = f"'{voter}', 'a', {version.ms}, {version.seq}"
    await execute(admin, f"INSERT INTO votes VALUES ({values})")
    await insert_tally(admin, f"SELECT now(), ARRAY[1, 0], {version.ms}")
    assert (await audit(prepared, engine)).problems == [
        "votes that no ballot in the queue explains: 1"
    ]


async def test_replay_counts_neither_dead_letters_nor_undecodable_entries(prepared, engine):
    await prepared.append({"nonsense": "1"})
    await prepared.cast_many(2)
    me = prepared.consumer("me")
    nonsense, dead_lettered, lost = await me.read(count=10, block=1)
    await me.dead_letter(dead_lettered, "refused")
    await me.acknowledge([nonsense.id, lost.id])
    assert (await replay(prepared, engine)).votes == 1
    [(_, *version)] = (await stored_votes(engine)).values()
    assert version == list(lost.version)


async def test_replays_beside_workers_lose_nothing_and_count_nothing_twice(prepared, engine, admin):
    await ask(engine, QUESTION)
    voters = [uuid4() for _ in range(200)]
    newest = {}

    async def vote(number):
        for voter in random.sample(voters, number):
            choice = random.choice(QUESTION.choices)
            version = await prepared.cast(Ballot(voter, choice))
            newest[voter] = (choice.value, *version)

    await vote(200)
    await count(prepared, engine)
    # As with an empty database: only acknowledged entries are to be replayed.
    await execute(admin, "TRUNCATE votes, tally")
    timing = Timing(maintenance_interval=0.05)
    async with working(prepared.queue, engine, 2, timing=timing):
        voting = asyncio.create_task(vote(150))
        replays = await asyncio.gather(replay(prepared, engine), replay(prepared, engine))
        await voting
        await until(partial(all_counted, prepared))
    assert any(each.votes > 0 for each in replays)  # the other may have come later
    assert await stored_votes(engine) == newest
    assert (await audit(prepared, engine)).problems == []


async def test_replay_without_a_queue_raises(stream, engine):
    with pytest.raises(StreamMissing):
        await replay(stream, engine)
