"""The faults: each public function makes one happen under load, and then ends it.

A fault waits until it has had its effect: a process has died, a voter got an error, a message was
held. The checker finds what is wrong afterwards.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

from support.database import fetch
from support.proxy import Proxy
from support.servers import as_user, standby_away
from support.voters import CONNECTIONS, Voters
from support.wait import until

from faults import faults_of
from faults.stack import PROCESSES, Stack, suspended
from voting.database.poll import Known, close_poll, reopen_poll
from voting.database.totals import fetch_result
from voting.load.client import Connection, NoResponse, NotSent
from voting.load.generator import VoterPool
from voting.load.record import Acknowledgement
from voting.poll.ballot import Version
from voting.reconcile.poll import reconcile
from voting.reconcile.replay import replay
from voting.settings import Role

Fault = Callable[[Stack, Voters], Awaitable[None]]

LATE = 0.5  # seconds
AWAY = 3.0  # seconds
LATE_VOTES = 20


# --- workers


async def worker_is_killed_after_the_read(stack: Stack, _: Voters) -> None:
    await _worker_dies(stack, "die_after_the_read")


async def worker_is_killed_inside_the_statement(stack: Stack, _: Voters) -> None:
    async with stack.workers_inside_a_statement():
        await stack.kill("worker 0")


async def worker_is_killed_and_the_statement_too(stack: Stack, voters: Voters) -> None:
    """Kill it while it counts a large batch: batches grow while statements are slow."""
    with stack.postgres.forth.late(LATE):
        await voters.wait_for_more(2_000, Acknowledgement.ACKNOWLEDGED)  # which are read meanwhile
        async with stack.workers_inside_a_statement():
            await stack.kill("worker 0")
            await stack.end_connections()


async def worker_is_killed_after_the_commit(stack: Stack, _: Voters) -> None:
    await _worker_dies(stack, "die_after_the_commit")


async def worker_is_killed_after_the_acknowledge(stack: Stack, _: Voters) -> None:
    await _worker_dies(stack, "die_after_the_acknowledge")


async def _worker_dies(stack: Stack, moment: str) -> None:
    async with stack.another_worker("worker that dies", moment):
        await stack.died("worker that dies")


async def worker_is_suspended_and_its_entries_are_taken_over(stack: Stack, voters: Voters) -> None:
    async with stack.another_worker("worker that sleeps", "suspend_after_the_read") as worker:
        await until(lambda: suspended(worker))
        await stack.entries_taken_from(worker)
        # Newer ballots of the same voters.
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        stack.signal("worker that sleeps", signal.SIGCONT)


# --- vote


async def vote_process_is_killed(stack: Stack, _: Voters) -> None:
    await stack.kill("vote 0")


async def vote_process_is_suspended(stack: Stack, voters: Voters) -> None:
    @contextmanager
    def suspended_process(_: Proxy) -> Iterator[None]:
        stack.signal("vote 0", signal.SIGSTOP)
        try:
            yield
        finally:
            stack.signal("vote 0", signal.SIGCONT)

    await _votes_are_given_up(stack, voters, suspended_process)


async def requests_to_vote_are_delivered_late(stack: Stack, voters: Voters) -> None:
    await _votes_are_given_up(stack, voters, lambda proxy: proxy.forth.held())


async def _votes_are_given_up(
    stack: Stack, voters: Voters, held: Callable[[Proxy], AbstractContextManager[None]]
) -> None:
    """Hold votes until their voters have given them up, and have voted again."""
    address = stack.address(Role.VOTE)
    pools = [VoterPool(limit=1, revote_ratio=1.0) for _ in range(LATE_VOTES)]

    async def vote_twice(connection: Connection, pool: VoterPool) -> None:
        await voters.vote(connection, pool, 0)
        async with await _connect(address) as other:
            await voters.vote(other, pool, 0)

    async with Proxy(urlsplit(address).port or 0) as proxy, AsyncExitStack() as exits:
        proxy.forth.keeps_open = True  # as a proxy does that reuses its connections
        late = [Connection(f"http://127.0.0.1:{proxy.port}") for _ in pools]
        for connection, pool in zip(late, pools, strict=True):
            await exits.enter_async_context(connection)
            await voters.vote(connection, pool, 0)
        before = voters.counts[Acknowledgement.UNKNOWN]
        with held(proxy):
            await asyncio.gather(*map(vote_twice, late, pools))
            assert voters.counts[Acknowledgement.UNKNOWN] > before
            proxy.back.passed.clear()
        await proxy.back.passed.wait()
    await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)


async def _connect(address: str) -> Connection:
    """Connect to a process that responds."""
    while True:
        probe = Connection(address, timeout=1)
        try:
            await probe.get("/")
        except (NotSent, NoResponse):
            continue
        return probe


# --- Redis


async def redis_is_killed(stack: Stack, _: Voters) -> None:
    await stack.kill("Valkey")


async def redis_is_suspended(stack: Stack, voters: Voters) -> None:
    stack.signal("Valkey", signal.SIGSTOP)
    try:
        await voters.wait_for_more(1, Acknowledgement.UNKNOWN)  # after two seconds
    finally:
        stack.signal("Valkey", signal.SIGCONT)


async def redis_is_cut_off(stack: Stack, voters: Voters) -> None:
    with stack.redis.cut():
        await voters.wait_for_more(1, Acknowledgement.REFUSED)


async def requests_to_redis_are_held_up(stack: Stack, voters: Voters) -> None:
    with stack.redis.forth.held():  # they are delivered after their deadline
        await voters.wait_for_more(1, Acknowledgement.UNKNOWN)


async def replies_of_redis_are_held_up(stack: Stack, voters: Voters) -> None:
    with stack.redis.back.held():
        await voters.wait_for_more(1, Acknowledgement.UNKNOWN)


async def replies_of_redis_are_lost(stack: Stack, voters: Voters) -> None:
    newest: Version | None = None

    async def all_wait() -> bool:
        nonlocal newest
        before, newest = newest, await stack.state.newest_entry()
        return before == newest

    with stack.redis.back.dropping():
        await stack.redis.back.caught.wait()
        await until(all_wait)
        stack.redis.hang_up()
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def redis_is_late(stack: Stack, voters: Voters) -> None:
    with stack.redis.forth.late(LATE), stack.redis.back.late(LATE):
        await voters.wait_for_more(CONNECTIONS, Acknowledgement.ACKNOWLEDGED)


async def redis_memory_is_full(stack: Stack, voters: Voters) -> None:
    await stack.valkey.config_set("maxmemory", 1)
    try:
        await voters.wait_for_more(100, Acknowledgement.REFUSED)
    finally:
        await stack.valkey.config_set("maxmemory", "1gb")


async def redis_loses_everything(stack: Stack, voters: Voters) -> None:
    """Flush Redis while no votes are sent: losing it loses uncounted ballots, as documented."""
    async with voters.pause():
        assert await stack.state.settled() == 0
        alarms = stack.alarms()
        await stack.valkey.flushall()
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)
    await until(lambda: stack.alarms() > alarms)


async def queue_is_lost_and_the_worker_that_finds_out_dies(stack: Stack, voters: Voters) -> None:
    """Kill it when it has recreated the queue, before Postgres knows: the alarm must come."""
    workers = [f"worker {index}" for index in range(PROCESSES[Role.WORKER])]
    async with voters.pause():
        assert await stack.state.settled() == 0
        for name in workers:
            stack.signal(name, signal.SIGSTOP)
        await stack.state.sql("UPDATE poll SET lost_at = NULL")
        await stack.valkey.flushall()
        await _worker_dies(stack, "die_after_the_queue_is_recreated")
        [[lost_at]] = await stack.state.sql("SELECT lost_at FROM poll")
        assert lost_at is None
        for name in workers:
            stack.signal(name, signal.SIGCONT)
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)
    lost = partial(stack.state.sql, "SELECT FROM poll WHERE lost_at IS NOT NULL")
    await until(lost)


async def clock_steps_back(stack: Stack, voters: Voters) -> None:
    """Leave Redis with ids an hour ahead of its clock, as after a step back."""
    newest = await stack.state.newest_entry()
    ahead = f"{newest.ms + 3_600_000}-0"
    await stack.valkey.execute_command("XSETID", stack.queue.stream_key, ahead)
    await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)


async def clock_steps_back_and_redis_loses_everything(stack: Stack, voters: Voters) -> None:
    await clock_steps_back(stack, voters)
    await redis_loses_everything(stack, voters)


async def group_is_lost(stack: Stack, voters: Voters) -> None:
    async with stack.workers_inside_a_statement():  # so that there is a backlog
        await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)
        await stack.valkey.xgroup_destroy(stack.queue.stream_key, "workers")


async def poison_is_queued(stack: Stack, voters: Voters) -> None:
    before = await stack.valkey.xlen(stack.queue.dead_letters_key)
    poison = (
        {"voter": "me", "choice": "a"},
        {"voter": uuid4().bytes, "choice": "m"},
        {"voter": uuid4().bytes, "choice": "l"},  # which this round does not have
    )
    for fields in poison:
        await stack.valkey.xadd(stack.queue.stream_key, fields)
    await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
    letters = partial(stack.valkey.xlen, stack.queue.dead_letters_key)
    await until(letters, check=lambda number: number == before + len(poison))


async def connections_to_redis_go_silent(stack: Stack, voters: Voters) -> None:
    with stack.redis.silent():
        await voters.wait_for_more(1, Acknowledgement.UNKNOWN)  # after two seconds
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        await stack.recovered()


# --- Postgres


async def postgres_is_killed(stack: Stack, _: Voters) -> None:
    async with stack.workers_inside_a_statement():
        await stack.kill("Postgres")


async def postgres_is_away_for_long(stack: Stack, voters: Voters) -> None:
    """Cut it off for longer than a worker's entries may be idle before another claims them."""
    with stack.postgres.cut():
        await asyncio.sleep(AWAY)
        await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def postgres_ends_connections(stack: Stack, _: Voters) -> None:
    async with stack.workers_inside_a_statement():
        await stack.end_connections()


async def requests_to_postgres_are_held_up(stack: Stack, voters: Voters) -> None:
    """Deliver statements after their worker has abandoned them and counted the batch again."""
    way = stack.postgres.forth
    way.hold()
    await way.caught.wait()
    stack.postgres.hang_up()
    way.release()
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def replies_of_postgres_are_lost(stack: Stack, voters: Voters) -> None:
    with stack.postgres.back.dropping():
        await stack.postgres.back.caught.wait()
        stack.postgres.hang_up()
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def postgres_is_late(stack: Stack, voters: Voters) -> None:
    with stack.postgres.forth.late(LATE), stack.postgres.back.late(LATE):
        await voters.wait_for_more(2_000, Acknowledgement.ACKNOWLEDGED)


async def workers_of_another_database_are_started(stack: Stack, voters: Voters) -> None:
    """Deploy workers with another DATABASE_URL, while those of the first still run."""
    name = "worker of another database"
    async with stack.another_database() as url:
        async with stack.another_worker(name, DATABASE_URL=as_user(url, "voting_worker")):
            await until(lambda: "belongs to another database" in stack.log(Role.WORKER))
            await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        assert await fetch(url, "SELECT FROM votes") == []


async def postgres_is_restored_to_before_the_close(stack: Stack, voters: Voters) -> None:
    """The poll stays closed until an operator replays what the backup lacks, and opens it."""
    before = stack.log(Role.WORKER).count("restored from an older backup")
    await stack.back_up()
    await voters.wait_for_more(200, Acknowledgement.ACKNOWLEDGED)
    async with stack.operator() as engine:
        await close_poll(engine)
        await reconcile(engine, stack.queue_state)
        await voters.wait_for_more(1, Acknowledgement.REFUSED)
        await until(partial(stack.state.sql, "SELECT FROM poll WHERE final_at IS NOT NULL"))
        await stack.restore()
        await stack.a_minute_passes()
        await until(lambda: stack.log(Role.WORKER).count("restored from an older backup") > before)
        acknowledged = voters.counts[Acknowledgement.ACKNOWLEDGED]
        await voters.wait_for_more(50, Acknowledgement.REFUSED)
        assert voters.counts[Acknowledgement.ACKNOWLEDGED] == acknowledged
        await replay(stack.queue_state, engine)
        seen = (await fetch_result(engine)).poll
        known = await stack.queue_state.poll_identity()
        await reopen_poll(engine, seen, known=Known(known.revision))
        await reconcile(engine, stack.queue_state)
    await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def connections_to_postgres_go_silent(stack: Stack, _: Voters) -> None:
    with stack.postgres.silent():
        await stack.unready("worker 0", "worker 1", "result 0")
        await stack.recovered()


async def standby_is_away(stack: Stack, voters: Voters) -> None:
    """Have commits wait for a standby for longer than workers wait for a response."""
    waiting = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name = 'voting-worker'"
    )
    short = f"{waiting} AND pid = $1 AND query_start > clock_timestamp() - interval '8 s'"
    counted = "SELECT count(*) FROM votes"
    async with standby_away(stack.database_url):
        await until(partial(stack.state.sql, waiting))
        [first, *_] = await stack.state.sql(waiting)
        before = await stack.state.sql(counted)
        await until(partial(stack.state.sql, short, first["pid"]), check=lambda found: not found)
        await voters.wait_for_more(500, Acknowledgement.ACKNOWLEDGED)
        assert await stack.state.sql(counted) == before, "a wait for the standby was ended"
    await stack.recovered()


# --- all of it


async def everything_is_killed(stack: Stack, voters: Voters) -> None:
    names = ("vote 0", "vote 1", "worker 0", "worker 1", "Valkey", "Postgres", "result 0")
    with stack.redis.back.late(LATE / 10), stack.postgres.back.late(LATE / 10):
        await asyncio.gather(*map(stack.kill, names))
        await stack.ready()
        await voters.wait_for_more(100, Acknowledgement.ACKNOWLEDGED)


async def everything_is_restarted(stack: Stack, _: Voters) -> None:
    await stack.restart()


FAULTS: tuple[Fault, ...] = faults_of(globals())

# After these the queue does not hold all ballots that were cast.
FORGETTING = (
    redis_memory_is_full,
    redis_loses_everything,
    queue_is_lost_and_the_worker_that_finds_out_dies,
    clock_steps_back_and_redis_loses_everything,
)
