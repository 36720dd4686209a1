import asyncio
import time
from contextlib import suppress
from functools import partial
from uuid import uuid4

import pytest
from redis.exceptions import RedisError, ResponseError
from support.servers import set_clock_back
from support.wait import until

from voting.poll.ballot import MIN_VERSION, Ballot, Choice, QueuedBallot, Version
from voting.poll.lifecycle import Poll
from voting.queue import producer
from voting.queue import state as state_module
from voting.queue.client import GROUP, Queue, StreamMissing, connect
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.queue.producer import (
    Caster,
    MaybeRecorded,
    NotRecorded,
    PollClosed,
    RoundOver,
)
from voting.queue.state import QueueState

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def ballot(choice=Choice.A):
    return Ballot(uuid4(), choice)


@pytest.fixture
def me(prepared):
    return prepared.consumer("me")


@pytest.fixture
async def calls(prepared):
    """Return a function that returns how often Redis has run a script."""

    async def count():
        return (await prepared.admin.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0)

    return count


@pytest.mark.parametrize(
    "traces",
    [[None] * 100, [None, TRACE, None, f"00-{'c' * 32}-{'d' * 16}-00", None]],
    ids=["plain", "traced"],
)
async def test_ballots_of_one_turn_of_the_loop_are_sent_in_one_call_in_order(
    prepared, me, calls, traces
):
    before = await calls()
    mine = [Ballot(uuid4(), Choice.B, trace) for trace in traces]
    versions = await asyncio.gather(*map(prepared.cast, mine))
    assert await calls() - before == 1
    entries = await me.read(count=1000, block=1)
    assert [each.version for each in entries] == versions == sorted(versions)
    assert [each.ballot() for each in entries] == [
        QueuedBallot(*version, ballot.voter.hex, ballot.choice, ballot.trace, 1)
        for version, ballot in zip(versions, mine, strict=True)
    ]
    # Only a traced ballot has the field.
    plain, traced = {b"voter", b"choice"}, {b"voter", b"choice", b"trace"}
    assert [each.fields.keys() for each in entries] == [
        traced if each else plain for each in traces
    ]
    assert [Entry.of(each.ballot()) for each in entries] == entries


async def test_ballots_gather_while_calls_are_in_flight(prepared):
    casts = []
    for _ in range(200):
        casts.append(asyncio.create_task(prepared.cast(ballot())))
        await asyncio.sleep(0)
    assert len(set(await asyncio.gather(*casts))) == 200
    assert await prepared.length() == 200


async def test_a_cast_is_refused_before_a_worker_has_created_the_stream(stream):
    with pytest.raises(NotRecorded, match="no worker"):
        await stream.cast(ballot())
    assert await stream.length() == 0
    assert await stream.cast_rules() is None


@pytest.mark.parametrize("key", ["stream_key", "poll_key"])
async def test_a_cast_is_refused_if_the_stream_or_the_poll_is_missing(prepared, key):
    await prepared.admin.delete(getattr(prepared.queue, key))
    with pytest.raises(NotRecorded):
        await prepared.cast(ballot())
    assert not await prepared.ready()


async def test_a_cast_is_refused_when_the_poll_is_closed(prepared):
    await prepared.sync_poll(MIN_VERSION, Poll(state="closed"))
    with pytest.raises(PollClosed):
        await prepared.cast(ballot())
    assert await prepared.length() == 0


@pytest.mark.parametrize("number", [1, 3])
async def test_a_cast_for_another_round_is_refused(prepared, number):
    await prepared.sync_poll(MIN_VERSION, Poll(round=2, revision=1))
    with pytest.raises(RoundOver):
        await prepared.cast(ballot(), number)
    assert await prepared.length() == 0
    # Also where the poll is closed: its page has another question by now.
    await prepared.sync_poll(MIN_VERSION, Poll(round=2, revision=2, state="closed"))
    with pytest.raises(RoundOver):
        await prepared.cast(ballot(), number)
    assert await prepared.ready()


async def test_ballots_for_several_rounds_at_once_have_a_call_each(prepared, calls):
    await prepared.sync_poll(MIN_VERSION, Poll(round=2, revision=1))
    before = await calls()
    rounds = [2, 2, 1, 1, 2, 3]
    casts = (prepared.cast(ballot(), number) for number in rounds)
    found = await asyncio.gather(*casts, return_exceptions=True)
    assert await calls() - before == 4
    assert [isinstance(each, Version) for each in found] == [number == 2 for number in rounds]
    assert {type(each) for each in found} == {Version, RoundOver}
    assert await prepared.length() == 3


async def test_every_choice_is_queued(prepared, me):
    cast = [ballot(choice) for choice in Choice]
    await asyncio.gather(*map(prepared.cast, cast))
    entries = await me.read(count=100, block=1)
    assert [each.ballot().choice for each in entries] == list(Choice)


@pytest.mark.parametrize("late", [0, 1])
async def test_a_cast_is_refused_from_the_very_millisecond_at_which_the_poll_closes(
    prepared, monkeypatch, late
):
    """Redis' clock is real in all but `cast.lua`, which gets a fixed time in place of it."""
    clock, real = "redis.call('TIME')", producer.CAST
    assert real.count(clock) == 1
    closes_at = 1_700_000_000_123  # ms, long before the deadline of each cast
    await prepared.admin.hset(prepared.queue.poll_key, "closes_at", closes_at)

    def set_clock(ms):
        fixed = f"{{'{ms // 1000}', '{ms % 1000 * 1000}'}}"
        monkeypatch.setattr(producer, "CAST", real.replace(clock, fixed))

    set_clock(closes_at - 1)
    assert await prepared.cast(ballot())
    set_clock(closes_at + late)
    with pytest.raises(PollClosed):
        await prepared.cast(ballot())
    assert await prepared.length() == 1


async def test_a_cast_is_refused_after_its_deadline_by_redis_clock(prepared):
    before = await prepared.cast(ballot())
    set_clock_back(prepared.caster)  # as if Redis' clock had just jumped ahead
    with pytest.raises(NotRecorded, match="deadline"):
        await prepared.cast(ballot())
    assert await prepared.length() == 1
    assert await prepared.cast(ballot()) > before  # the refusal returned the new time


async def test_a_cast_is_refused_if_memory_is_full(prepared, me):
    await prepared.cast(ballot())
    async with prepared.memory_limit("1"):
        with pytest.raises(NotRecorded, match="refuses"):
            await prepared.cast(ballot())
        # The entries already in the stream can still be counted.
        [entry] = await me.read(count=10, block=1)
        await me.acknowledge([entry.id])
    assert await prepared.cast(ballot())


async def test_errors_of_an_unreachable_redis_are_raised_and_a_cast_is_not_recorded(tmp_path):
    queue = Queue(connect(f"unix://{tmp_path}/missing.sock"))
    with pytest.raises(NotRecorded, match="reached"):
        await Caster(queue).cast(ballot(), 1)
    assert not await Caster(queue).ready()
    with pytest.raises(RedisError):
        await Consumer(queue, "me").read(count=1, block=0.01)
    await queue.close()


REFUSALS = {
    "WRONGTYPE": ["DEL {stream}", "SET {stream} text"],
    "NOREPLICAS": ["CONFIG SET min-replicas-to-write 1"],
    "NOPERM": ["ACL SETUSER vote -xadd"],
    "READONLY": ["REPLICAOF 127.0.0.1 1"],
}
UNDO = ["CONFIG SET min-replicas-to-write 0", "ACL SETUSER vote +xadd", "REPLICAOF NO ONE"]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_cast_that_redis_refuses_is_certainly_not_recorded(prepared, refusal):
    before = await prepared.cast(ballot())

    async def run(command):
        words = command.format(stream=prepared.queue.stream_key.replace(" ", "")).split()
        await prepared.admin.execute_command(*words)

    try:
        for command in REFUSALS[refusal]:
            await run(command)
        with pytest.raises(NotRecorded, match="refuses"):
            await prepared.cast(ballot())
    finally:
        for command in UNDO:
            await run(command)
    if refusal != "WRONGTYPE":
        assert await prepared.length() == 1
        assert await prepared.cast(ballot()) > before


async def test_a_cast_is_refused_while_a_script_keeps_redis_busy(servers, prepared):
    await prepared.cast(ballot())
    await prepared.admin.config_set("busy-reply-threshold", 10)
    another = connect(servers.redis_url())
    spin = asyncio.create_task(another.eval("while true do end", 0))
    try:
        await until(partial(is_busy, prepared.admin))
        with pytest.raises(NotRecorded, match="refuses"):
            await prepared.cast(ballot())
    finally:
        await prepared.admin.script_kill()
        with suppress(RedisError):
            await spin
        await another.aclose()
        await prepared.admin.config_set("busy-reply-threshold", 5000)


async def is_busy(redis):
    try:
        await redis.ping()
    except ResponseError as error:
        return "BUSY" in str(error)


@pytest.mark.parametrize(
    "last", [f"{2**63}-0", f"{2**53}-0", f"{2**53 - 1}-7", f"{2**53 - 2}-{2**53 - 1}"]
)
async def test_a_cast_after_an_id_that_postgres_can_not_store_is_refused(prepared, last):
    """With the vote user's own rights; acknowledged votes would be dead letters."""
    await prepared.vote.queue.redis.xadd(prepared.queue.stream_key, {"any": "entry"}, id=last)
    with pytest.raises(NotRecorded, match="so high an id"):
        await prepared.cast(ballot())
    assert await prepared.length() == 1


@pytest.mark.parametrize("last", [f"{2**53 - 3}-0", f"1-{2**63}"])
async def test_casts_go_on_after_other_entries_by_hand(prepared, last):
    last = await prepared.append({"any": "entry"}, last)
    assert await prepared.cast(ballot()) > last


async def test_a_cancelled_cast_does_not_affect_others_of_its_batch(prepared):
    leaving = asyncio.create_task(prepared.cast(ballot()))
    staying = asyncio.create_task(prepared.cast(ballot()))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    assert await prepared.length() == 2


async def test_a_cancelled_call_is_maybe_recorded(prepared):
    casting = asyncio.create_task(prepared.cast(ballot()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [call] = prepared.caster._calls
    call.cancel()
    with pytest.raises(MaybeRecorded):
        await casting


async def test_a_second_sync_changes_nothing(prepared, me):
    version = await prepared.cast(ballot())
    assert not (await prepared.sync_poll(MIN_VERSION, Poll())).created
    [entry] = await me.read(count=10, block=1)
    assert entry.version == version


async def test_a_recreated_group_reads_entries_from_before_it(prepared, me):
    version = await prepared.cast(ballot())
    await prepared.admin.xgroup_destroy(prepared.queue.stream_key, GROUP)
    synced = await prepared.sync_poll(MIN_VERSION, Poll())
    assert not synced.created  # the stream itself was there
    [entry] = await me.read(count=10, block=1)
    assert entry.version == version


async def test_a_new_stream_treats_versions_in_postgres_as_counted(stream):
    counted = Version(9_999_999_999_999, 7)
    await stream.sync_poll(counted, Poll())
    assert (await stream.progress()).counted(counted)
    version = await stream.cast(ballot())
    assert version > counted
    assert not (await stream.progress()).counted(version)


async def test_a_sync_after_its_deadline_is_not_applied(stream, monkeypatch):
    monkeypatch.setattr(state_module, "SYNC_TIMEOUT", 0)
    with pytest.raises(ResponseError, match="LATE"):
        await stream.sync_poll(MIN_VERSION, Poll())
    assert not await stream.ready()


async def test_pending_entries_that_were_deleted_are_logged_as_an_error(prepared, caplog):
    version = await prepared.cast(ballot())
    await prepared.consumer("dead").read(count=1, block=1)
    await prepared.admin.xdel(prepared.queue.stream_key, str(version))
    assert await prepared.consumer("alive").claim_idle(min_idle=0, count=10) == []
    [record] = [each for each in caplog.records if "were deleted" in each.getMessage()]
    assert record.entries == 1


async def test_a_sync_never_lowers_the_last_id(prepared):
    future = Version(9_999_999_999_999, 7)
    await prepared.sync_poll(future, Poll())
    await prepared.sync_poll(Version(5, 5), Poll())
    await prepared.sync_poll(Version(future.ms, 6), Poll())
    assert await prepared.cast(ballot()) > future


async def test_a_key_of_another_type_is_an_error(stream):
    await stream.admin.set(stream.queue.stream_key, "not a stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stream.sync_poll(MIN_VERSION, Poll())
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stream.consumer("me").read(count=1, block=0.01)


async def test_a_read_with_no_time_to_block_returns(me):
    assert await me.read(count=1, block=0) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda stream: stream.consumer("me").read(count=1, block=0.01),
        lambda stream: stream.consumer("me").claim_idle(min_idle=0, count=1),
        lambda stream: stream.progress(),
        lambda stream: stream.consumer("me").trim(MIN_VERSION),
        lambda stream: stream.consumer("me").delete_idle_consumers(0),
    ],
    ids=["read", "claim_idle", "progress", "trim", "delete_idle_consumers"],
)
async def test_a_missing_stream_raises_stream_missing(stream, ask):
    with pytest.raises(StreamMissing):
        await ask(stream)


async def test_each_entry_is_delivered_to_one_consumer(prepared):
    await prepared.cast_many(10)
    one = await prepared.consumer("one").read(count=6, block=1)
    two = await prepared.consumer("two").read(count=6, block=1)
    assert (len(one), len(two)) == (6, 4)
    assert not {each.version for each in one} & {each.version for each in two}


async def test_entries_of_a_dead_consumer_are_claimed(prepared):
    await prepared.cast(ballot())
    [entry] = await prepared.consumer("dead").read(count=10, block=1)
    assert await prepared.consumer("alive").claim_idle(min_idle=60, count=10) == []
    assert await prepared.consumer("alive").claim_idle(min_idle=0, count=10) == [entry]


async def test_acknowledged_entries_are_not_claimed(prepared, me):
    await prepared.cast(ballot())
    [entry] = await me.read(count=10, block=1)
    await me.acknowledge([entry.id])
    await me.acknowledge([])
    assert await prepared.consumer("other").claim_idle(min_idle=0, count=10) == []


async def test_a_read_acknowledges_earlier_entries(prepared, me):
    await prepared.cast_many(3)
    first = await me.read(count=2, block=1)
    [last] = await me.read(count=2, block=1, acknowledge=[each.id for each in first])
    assert await prepared.consumer("other").claim_idle(min_idle=0, count=10) == [last]
    # Also if there is nothing to read.
    assert await me.read(count=2, block=0.01, acknowledge=[last.id]) == []
    assert (await prepared.progress()).backlog == 0


async def test_a_read_that_acknowledges_detects_a_missing_group(prepared, me):
    await prepared.cast(ballot())
    [entry] = await me.read(count=2, block=1)
    await prepared.admin.xgroup_destroy(prepared.queue.stream_key, GROUP)
    with pytest.raises(StreamMissing):
        await me.read(count=2, block=0.01, acknowledge=[entry.id])
    assert await prepared.length() == 1


async def test_a_failed_read_leaves_no_reply_to_the_next_command(prepared, me):
    with pytest.raises(ResponseError, match="Invalid stream ID"):
        await me.read(count=2, block=1, acknowledge=[b"nonsense"])
    assert await prepared.length() == 0  # while Redis still runs the failed read


async def test_a_ballot_is_counted_when_all_entries_up_to_it_are_acknowledged(prepared, me):
    first, second = await prepared.cast_many(2)
    progress = await prepared.progress()
    assert (progress.counted(first), progress.backlog) == (False, 2)

    entries = await me.read(count=10, block=1)
    progress = await prepared.progress()
    assert (progress.counted(first), progress.backlog) == (False, 2)

    await me.acknowledge([entries[0].id])
    progress = await prepared.progress()
    assert (progress.counted(first), progress.counted(second)) == (True, False)

    await me.acknowledge([entries[1].id])
    progress = await prepared.progress()
    assert (progress.counted(second), progress.backlog) == (True, 0)


async def test_the_backlog_is_none_if_redis_does_not_know_the_lag(prepared, me):
    first, *_ = await prepared.cast_many(3)
    await me.read(count=1, block=1)
    await prepared.admin.xdel(prepared.queue.stream_key, str(first))
    await prepared.admin.execute_command("XGROUP", "SETID", prepared.queue.stream_key, GROUP, "1-1")
    assert (await prepared.progress()).backlog is None


@pytest.mark.parametrize("others", [1, 10_000])
async def test_a_dead_letter_keeps_the_first_fields_of_its_entry_and_has_its_id(
    prepared, me, others
):
    fields = {"id": "mine", **{str(number): number for number in range(others)}}
    await prepared.append(fields)
    [entry] = await me.read(count=10, block=1)
    await me.dead_letter(entry, "no ballot")
    [(_, letter)] = await prepared.admin.xrange(prepared.queue.dead_letters_key)
    kept = {b"%d" % number: b"%d" % number for number in range(min(others, 99))}
    assert letter == kept | {b"id": str(entry.version).encode(), b"reason": b"no ballot"}
    assert (await prepared.progress()).oldest_pending is None


async def test_trimming_deletes_counted_entries_only(prepared, me):
    versions = [await prepared.cast(ballot()) for _ in range(4)]
    everything = Version(9_999_999_999_999, 0)
    await me.trim(everything)
    assert await prepared.length() == 4  # none is read

    entries = await me.read(count=3, block=1)
    await me.acknowledge([entries[0].id, entries[2].id])
    await me.trim(everything)
    left = [each.version for each in await prepared.entries_before(None, 10)]
    assert left == versions[:0:-1]  # the second is pending, the fourth not read

    await me.acknowledge([entries[1].id])
    await me.trim(MIN_VERSION)
    assert await prepared.length() == 3  # all are newer
    await me.trim()
    assert await prepared.length() == 2


async def test_a_consumer_is_deleted_only_when_idle_and_without_pending_entries(prepared, me):
    await prepared.cast(ballot())
    await prepared.consumer("with an entry").read(count=1, block=1)
    await prepared.consumer("without").read(count=1, block=0.01)
    await asyncio.sleep(0.002)
    assert await me.delete_idle_consumers(60) == 0
    assert await me.delete_idle_consumers(0) == 1
    [left] = await prepared.admin.xinfo_consumers(prepared.queue.stream_key, GROUP)
    assert (left["name"], left["pending"]) == (b"with an entry", 1)
    # A consumer that was deleted too early exists again with its next read.
    await prepared.cast(ballot())
    assert await prepared.consumer("without").read(count=1, block=1)


@pytest.mark.parametrize(
    ("versions", "midpoint"),
    [
        ((), MIN_VERSION),
        (("1000-0", "1001-0", "3000-0"), Version(2000, 0)),
        (("1000-1", "1000-2", "1000-9"), Version(1000, 5)),
    ],
)
async def test_the_midpoint_is_half_way_in_time_or_in_sequence(prepared, versions, midpoint):
    for version in versions:
        await prepared.append({"any": "thing"}, version)
    assert await prepared.midpoint() == midpoint


@pytest.mark.parametrize(("limit", "full"), [("0", False), ("1gb", False), ("1", True)])
async def test_memory_is_low_before_it_is_full(prepared, limit, full):
    async with prepared.memory_limit(limit):
        assert await prepared.memory_is_low() == full


async def test_the_clock_is_that_of_redis(prepared):
    before = (await prepared.cast(ballot())).ms / 1000
    assert await prepared.clock() >= before


async def test_the_time_is_that_of_this_machine_until_redis_has_told_its_own(prepared):
    state = QueueState(prepared.vote.queue)
    assert abs(state.now() - time.time()) < 1
    await state.cast_rules()
    assert abs(state.now() - await prepared.clock()) < 1


async def test_a_ballot_behind_one_that_stays_pending_is_counted(prepared, me):
    versions = await prepared.cast_many(4)
    entries = await me.read(count=3, block=1)
    await me.acknowledge([each.id for each in entries[1:]])
    progress = await prepared.progress()
    assert [progress.counted(each) for each in versions] == [False, True, True, False]


async def test_a_ballot_is_not_called_counted_while_too_many_are_pending(prepared, me, monkeypatch):
    monkeypatch.setattr(state_module, "KNOWN_PENDING", 2)
    versions = await prepared.cast_many(6)
    entries = await me.read(count=6, block=1)
    await me.acknowledge([entries[0].id, entries[2].id, entries[5].id])  # two of three are known
    progress = await prepared.progress()
    assert progress.known_pending == (versions[1], versions[3])
    counted = [True, False, True, False, False, False]
    assert [progress.counted(each) for each in versions] == counted
