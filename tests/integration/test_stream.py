import asyncio
from uuid import uuid4

import pytest
from redis.exceptions import RedisError, ResponseError

from voting.poll.ballot import MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.queue import stream as stream_module
from voting.queue.producer import MaybeRecorded, NotRecorded, PollClosed
from voting.queue.stream import GROUP, BallotStream, Entry, StreamMissing, connect

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def ballot(choice=Choice.A):
    return Ballot(uuid4(), choice)


@pytest.fixture
async def prepared(stream):
    assert (await stream.sync_poll(MIN_VERSION, "open")).created
    return stream


@pytest.fixture
async def calls(prepared):
    """Count the calls of the script that Redis has seen."""

    async def count():
        return (await prepared.admin.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)

    return count


async def test_a_cast_ballot_is_in_the_stream_as_it_was_cast(prepared):
    mine = ballot(Choice.B)
    version = await prepared.cast(mine)
    [entry] = await prepared.read("me", count=10, block=1)
    assert entry.ballot() == QueuedBallot.of(version, mine)


async def test_ballots_of_the_same_moment_travel_together_in_order(prepared, calls):
    before = await calls()
    mine = [ballot() for _ in range(100)]
    versions = await asyncio.gather(*map(prepared.cast, mine))
    assert await calls() - before == 1
    entries = await prepared.read("me", count=1000, block=1)
    assert [each.version for each in entries] == versions == sorted(versions)
    assert [each.ballot() for each in entries] == list(map(QueuedBallot.of, versions, mine))


async def test_a_trace_goes_with_its_own_ballot_only(prepared, calls):
    before = await calls()
    traces = [None, TRACE, None, f"00-{'c' * 32}-{'d' * 16}-00", None]
    mine = [Ballot(uuid4(), Choice.B, trace) for trace in traces]
    versions = await asyncio.gather(*map(prepared.cast, mine))
    assert await calls() - before == 1
    entries = await prepared.read("me", count=10, block=1)
    assert [each.version for each in entries] == versions == sorted(versions)
    assert [each.ballot() for each in entries] == list(map(QueuedBallot.of, versions, mine))
    plain, traced = {b"voter", b"choice"}, {b"voter", b"choice", b"trace"}
    assert [each.fields.keys() for each in entries] == [
        traced if each else plain for each in traces
    ]


async def test_a_ballot_without_a_trace_has_not_a_field_more(prepared):
    await asyncio.gather(*(prepared.cast(ballot()) for _ in range(3)))
    entries = await prepared.read("me", count=10, block=1)
    assert [each.fields.keys() for each in entries] == [{b"voter", b"choice"}] * 3


async def test_ballots_gather_while_calls_are_on_their_way(prepared):
    async def trickle():
        casts = []
        for _ in range(200):
            casts.append(asyncio.create_task(prepared.cast(ballot())))
            await asyncio.sleep(0)
        return await asyncio.gather(*casts)

    assert len(set(await trickle())) == 200
    assert await prepared.length() == 200


async def test_a_cast_is_refused_before_a_worker_has_prepared_the_stream(stream):
    with pytest.raises(NotRecorded, match="prepared"):
        await stream.cast(ballot())
    assert await stream.length() == 0


async def test_a_cast_is_refused_where_only_the_poll_is_known(stream):
    await stream.sync_poll(MIN_VERSION, "open")
    await stream.admin.delete(stream._stream)
    with pytest.raises(NotRecorded):
        await stream.cast(ballot())
    assert not await stream.ready()


async def test_a_cast_is_refused_where_only_the_stream_is_there(prepared):
    await prepared.admin.delete(prepared._poll)
    with pytest.raises(NotRecorded):
        await prepared.cast(ballot())


async def test_a_cast_is_refused_when_the_poll_is_closed(prepared):
    await prepared.sync_poll(MIN_VERSION, "closed")
    with pytest.raises(PollClosed):
        await prepared.cast(ballot())
    assert await prepared.length() == 0


async def test_a_cast_is_refused_past_its_deadline_by_redis_clock(prepared):
    # As if Redis' clock had just jumped far ahead.
    prepared.vote._caster._clock_read = asyncio.get_running_loop().time()
    with pytest.raises(NotRecorded, match="deadline"):
        await prepared.cast(ballot())
    assert await prepared.length() == 0
    assert await prepared.cast(ballot())  # the refusal told the new time


async def test_a_cast_is_refused_where_memory_is_short(prepared):
    await prepared.cast(ballot())
    await prepared.admin.config_set("maxmemory", 1)
    try:
        with pytest.raises(NotRecorded, match="refuses"):
            await prepared.cast(ballot())
        [entry] = await prepared.read("me", count=10, block=1)  # what is in is still worked off
        await prepared.done([entry.id])
    finally:
        await prepared.admin.config_set("maxmemory", "1gb")
    assert await prepared.cast(ballot())


async def test_a_cast_is_not_recorded_where_redis_can_not_be_reached(tmp_path):
    stream = BallotStream(connect(f"unix://{tmp_path}/nobody.sock"))
    with pytest.raises(NotRecorded, match="reached"):
        await stream.cast(ballot())
    assert not await stream.ready()
    await stream.close()


async def test_a_clock_that_can_not_be_asked_means_not_recorded(servers, prepared):
    impatient = BallotStream(connect(servers.redis_url()), name=prepared.name, cast_timeout=0.05)
    await impatient.ready()
    await prepared.admin.client_pause(500)
    with pytest.raises(NotRecorded, match="answer"):
        await impatient.cast(ballot())
    await prepared.admin.client_unpause()
    await impatient.close()


async def test_a_reply_that_makes_no_sense_reaches_the_voter_as_an_error(prepared):
    await prepared.admin.delete(prepared._stream)
    await prepared.admin.set(prepared._stream, "not a stream")
    with pytest.raises(MaybeRecorded):
        await prepared.cast(ballot())


async def test_a_voter_who_leaves_does_not_disturb_the_others(prepared):
    leaving = asyncio.create_task(prepared.cast(ballot()))
    staying = asyncio.create_task(prepared.cast(ballot()))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    assert await prepared.length() == 2


async def test_a_call_that_is_cancelled_may_have_been_recorded(prepared):
    casting = asyncio.create_task(prepared.cast(ballot()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [call] = prepared.vote._caster._calls
    call.cancel()
    with pytest.raises(MaybeRecorded):
        await casting


async def test_preparing_twice_changes_nothing(prepared):
    version = await prepared.cast(ballot())
    assert not (await prepared.sync_poll(MIN_VERSION, "open")).created
    [entry] = await prepared.read("me", count=10, block=1)
    assert entry.version == version


async def test_preparing_finds_what_came_before_the_group(prepared):
    version = await prepared.cast(ballot())
    await prepared.admin.xgroup_destroy(prepared._stream, GROUP)
    assert not (
        await prepared.sync_poll(MIN_VERSION, "open")
    ).created  # the stream itself was there
    [entry] = await prepared.read("me", count=10, block=1)
    assert entry.version == version


async def test_what_is_counted_is_counted_in_a_new_stream_too(stream):
    counted = Version(1_700_000_000_000, 5)
    await stream.sync_poll(counted, "open")
    assert (await stream.progress()).counted(counted)
    assert not (await stream.progress()).counted(await stream.cast(ballot()))


async def test_a_prepare_that_comes_late_is_not_applied(stream, monkeypatch):
    monkeypatch.setattr(stream_module, "SYNC_TIMEOUT", 0)
    with pytest.raises(ResponseError, match="LATE"):
        await stream.sync_poll(MIN_VERSION, "open")
    assert not await stream.ready()


async def test_entries_that_are_gone_before_they_were_counted_are_an_alarm(prepared, caplog):
    version = await prepared.cast(ballot())
    await prepared.read("dead", count=1, block=1)
    await prepared.admin.xdel(prepared._stream, str(version))
    assert await prepared.claim_idle("alive", idle=0, count=10) == []
    [record] = [each for each in caplog.records if "are gone" in each.getMessage()]
    assert record.entries == 1


async def test_ids_never_run_back_below_what_postgres_has(stream):
    future = Version(9_999_999_999_999, 7)
    await stream.sync_poll(future, "open")
    assert await stream.cast(ballot()) > future


async def test_preparing_never_lowers_the_last_id(prepared):
    future = Version(9_999_999_999_999, 7)
    await prepared.sync_poll(future, "open")
    await prepared.sync_poll(Version(5, 5), "open")
    await prepared.sync_poll(Version(future.ms, 6), "open")
    assert await prepared.cast(ballot()) > future


async def test_what_is_not_a_stream_can_not_be_prepared(stream):
    await stream.admin.set(stream._stream, "not a stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stream.sync_poll(MIN_VERSION, "open")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stream.read("me", count=1, block=0.01)


async def test_reading_waits_no_longer_than_told(prepared):
    assert await prepared.read("me", count=1, block=0) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda stream: stream.read("me", count=1, block=0.01),
        lambda stream: stream.claim_idle("me", idle=0, count=1),
        lambda stream: stream.progress(),
        lambda stream: stream.trim(MIN_VERSION),
        lambda stream: stream.delete_idle_consumers(0),
    ],
    ids=["read", "claim_idle", "progress", "trim", "delete_idle_consumers"],
)
async def test_a_missing_stream_says_so(stream, ask):
    with pytest.raises(StreamMissing):
        await ask(stream)


async def test_entries_go_to_one_worker_each(prepared):
    await asyncio.gather(*(prepared.cast(ballot()) for _ in range(10)))
    one = await prepared.read("one", count=6, block=1)
    two = await prepared.read("two", count=6, block=1)
    assert len(one) == 6
    assert len(two) == 4
    assert not {each.version for each in one} & {each.version for each in two}


async def test_entries_of_a_dead_worker_are_taken_over(prepared):
    await prepared.cast(ballot())
    [entry] = await prepared.read("dead", count=10, block=1)
    assert await prepared.claim_idle("alive", idle=60, count=10) == []
    assert await prepared.claim_idle("alive", idle=0, count=10) == [entry]


async def test_entries_that_are_done_are_not_taken_over(prepared):
    await prepared.cast(ballot())
    [entry] = await prepared.read("me", count=10, block=1)
    await prepared.done([entry.id])
    await prepared.done([])
    assert await prepared.claim_idle("other", idle=0, count=10) == []


async def test_a_read_acknowledges_what_is_done_on_the_way(prepared):
    for _ in range(3):
        await prepared.cast(ballot())
    first = await prepared.read("me", count=2, block=1)
    [last] = await prepared.read("me", count=2, block=1, done=[each.id for each in first])
    assert await prepared.claim_idle("other", idle=0, count=10) == [last]
    # Also where there is nothing to read.
    assert await prepared.read("me", count=2, block=0.01, done=[last.id]) == []
    assert (await prepared.progress()).backlog == 0


async def test_a_group_that_is_gone_is_seen_by_a_read_that_acknowledges(prepared):
    await prepared.cast(ballot())
    [entry] = await prepared.read("me", count=2, block=1)
    await prepared.admin.xgroup_destroy(prepared._stream, GROUP)
    with pytest.raises(StreamMissing):
        await prepared.read("me", count=2, block=0.01, done=[entry.id])
    assert await prepared.length() == 1


async def test_the_next_command_gets_no_reply_of_a_read_that_failed_before_it_came(prepared):
    with pytest.raises(ResponseError, match="Invalid stream ID"):
        await prepared.read("me", count=2, block=1, done=[b"nonsense"])
    assert await prepared.length() == 0  # while the other command still waits


async def test_an_entry_can_be_made_again_from_its_ballot(prepared):
    await prepared.cast(ballot())
    await prepared.cast(Ballot(uuid4(), Choice.B, TRACE))
    entries = await prepared.read("me", count=2, block=1)
    assert [Entry.of(each.ballot()) for each in entries] == entries


async def test_a_ballot_is_counted_when_it_and_all_before_it_are_done(prepared):
    first, second = await asyncio.gather(prepared.cast(ballot()), prepared.cast(ballot()))
    progress = await prepared.progress()
    assert (progress.counted(first), progress.backlog) == (False, 2)

    entries = await prepared.read("me", count=10, block=1)
    progress = await prepared.progress()
    assert (progress.counted(first), progress.backlog) == (False, 2)

    await prepared.done([entries[0].id])
    progress = await prepared.progress()
    assert (progress.counted(first), progress.counted(second)) == (True, False)

    await prepared.done([entries[1].id])
    progress = await prepared.progress()
    assert (progress.counted(second), progress.backlog) == (True, 0)


async def test_the_backlog_is_unknown_where_redis_can_not_tell(prepared):
    first, *_ = await asyncio.gather(*(prepared.cast(ballot()) for _ in range(3)))
    await prepared.read("me", count=1, block=1)
    await prepared.admin.xdel(prepared._stream, str(first))
    await prepared.admin.execute_command("XGROUP", "SETID", prepared._stream, GROUP, "1-1")
    assert (await prepared.progress()).backlog is None


async def test_a_dead_letter_keeps_what_was_in_it_and_leaves_the_stream(prepared):
    await prepared.admin.xadd(prepared._stream, {"nonsense": "1"})
    [entry] = await prepared.read("me", count=10, block=1)
    await prepared.dead_letter(entry, "no ballot")
    [(_, letter)] = await prepared.admin.xrange(prepared._dead)
    assert letter == {
        b"nonsense": b"1",
        b"id": str(entry.version).encode(),
        b"reason": b"no ballot",
    }
    assert (await prepared.progress()).oldest_pending is None


async def test_a_dead_letter_with_fields_like_ours_or_too_many_is_buried_too(prepared):
    fields = {"id": "mine", **{str(number): number for number in range(10_000)}}
    await prepared.admin.xadd(prepared._stream, fields)
    [entry] = await prepared.read("me", count=10, block=1)
    await prepared.dead_letter(entry, "no ballot")
    [(_, letter)] = await prepared.admin.xrange(prepared._dead)
    assert letter[b"id"] == str(entry.version).encode()
    assert letter[b"98"] == b"98"
    assert (await prepared.progress()).oldest_pending is None


async def test_trimming_drops_what_is_counted_and_nothing_else(prepared):
    versions = [await prepared.cast(ballot()) for _ in range(4)]
    everything = Version(9_999_999_999_999, 0)
    await prepared.trim(everything)
    assert await prepared.length() == 4  # nobody has read them

    entries = await prepared.read("me", count=3, block=1)
    await prepared.done([entries[0].id, entries[2].id])
    await prepared.trim(everything)
    left = [Version.parse(each) for each, _ in await prepared.admin.xrange(prepared._stream)]
    assert left == versions[1:]  # the second is pending, the fourth not read

    await prepared.done([entries[1].id])
    await prepared.trim(MIN_VERSION)
    assert await prepared.length() == 3  # younger than asked
    await prepared.trim()
    assert await prepared.length() == 2


async def test_a_consumer_is_forgotten_only_when_silent_and_without_entries(prepared):
    await prepared.cast(ballot())
    await prepared.read("with an entry", count=1, block=1)
    await prepared.read("without", count=1, block=0.01)
    await asyncio.sleep(0.002)
    assert await prepared.delete_idle_consumers(60) == 0
    assert await prepared.delete_idle_consumers(0) == 1
    [left] = await prepared.admin.xinfo_consumers(prepared._stream, GROUP)
    assert (left["name"], left["pending"]) == (b"with an entry", 1)
    # Who was forgotten too early is known again with the next read.
    await prepared.cast(ballot())
    assert await prepared.read("without", count=1, block=1)


async def test_the_middle_is_half_way_in_time(prepared):
    assert await prepared.midpoint() == MIN_VERSION
    for version in ("1000-0", "1001-0", "3000-0"):
        await prepared.admin.xadd(prepared._stream, {"any": "thing"}, id=version)
    assert await prepared.midpoint() == Version(2000, 0)


async def test_the_middle_is_found_where_the_clock_stands_still(prepared):
    for version in ("1000-1", "1000-2", "1000-9"):
        await prepared.admin.xadd(prepared._stream, {"any": "thing"}, id=version)
    assert await prepared.midpoint() == Version(1000, 5)


@pytest.mark.parametrize(("limit", "full"), [("0", False), ("1gb", False), ("1", True)])
async def test_memory_is_nearly_full_before_it_is_full(prepared, limit, full):
    await prepared.admin.config_set("maxmemory", limit)
    try:
        assert await prepared.memory_is_low() == full
    finally:
        await prepared.admin.config_set("maxmemory", "1gb")


async def test_the_clock_is_redis_own(prepared):
    before = (await prepared.cast(ballot())).ms / 1000
    assert await prepared.clock() >= before


async def test_errors_of_redis_are_not_hidden(tmp_path):
    stream = BallotStream.at(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(RedisError):
        await stream.read("me", count=1, block=0.01)
    await stream.close()
