import asyncio
import os
import signal
from uuid import UUID

from support.wait import until

from voting.database.totals import fetch_result
from voting.poll.ballot import Ballot, Choice
from voting.queue.client import Queue, connect
from voting.queue.producer import Caster
from voting.roles.worker import run
from voting.settings import WorkerSettings, load_settings


async def test_the_role_counts_until_a_signal(servers, database_url, engine):
    environ = {"DATABASE_URL": database_url, "REDIS_URL": servers.redis_url("worker")}
    ports = {"HOST": "127.0.0.1", "OPS_PORT": "0"}
    role = asyncio.create_task(run(load_settings(WorkerSettings, {**environ, **ports})))
    queue = Queue(connect(servers.redis_url()))
    caster = Caster(queue)
    await until(caster.ready)
    await caster.cast(Ballot(UUID(int=1), Choice.B), 1)

    async def is_counted() -> bool:
        return (await fetch_result(engine)).totals.counts == (0, 1)

    await until(is_counted)
    os.kill(os.getpid(), signal.SIGTERM)
    await role
    await queue.redis.delete(queue.stream_key, queue.poll_key)
    await queue.close()
