"""Three servers and Sentinels that lose a machine with its disk."""

import shutil
import signal
from functools import partial

import pytest
from redis.exceptions import ResponseError
from support.app import data_folder
from support.replicated import ReplicatedServers
from support.wait import until

from voting.local.replication import NUMBERS


@pytest.fixture
def folder():
    with data_folder() as folder:
        yield folder


@pytest.fixture
async def servers(folder):
    async with ReplicatedServers(folder) as servers:
        yield servers


async def write(servers, key):
    """Write to the primary, until a replica has it on disk."""
    redis = servers.client(await servers.primary())
    await redis.set(key, "it")
    assert (await redis.execute_command("WAITAOF", 1, 1, 10_000))[1] >= 1


async def follows(servers, number, *keys):
    """Wait until a server is a replica that has these keys."""

    async def is_back():
        redis = servers.client(number)
        info = await redis.info("replication")
        linked = (info["role"], info.get("master_link_status")) == ("slave", "up")
        return linked and await redis.exists(*keys) == len(keys)

    await until(is_back)


async def all_back(servers):
    """Wait until each Sentinel knows two others, two replicas, and the same primary."""
    programs = {each.name: each for each in servers.machines.programs()}
    for number in NUMBERS:
        await until(programs[f"Sentinel {number}"].ready)
        await until(programs[f"Valkey {number}"].ready)


async def is_written(servers, key):
    """Try to write; a primary without a replica refuses."""
    try:
        await write(servers, key)
    except ResponseError as error:
        if "NOREPLICAS" not in str(error):
            raise
        return False
    return True


async def test_a_lost_machine_is_back_with_the_data_and_counts_when_the_next_is_lost(servers):
    await write(servers, "first")
    servers.lose(2)
    await until(partial(is_written, servers, "without 2"))
    await follows(servers, 2, "first", "without 2")
    await all_back(servers)
    servers.lose(0)
    await until(servers.primary, check=lambda found: found not in {0, None})
    await until(partial(is_written, servers, "without 0"))
    await follows(servers, 0, "first", "without 2", "without 0")
    await all_back(servers)


async def test_a_primary_that_dies_and_keeps_its_disk_stays_the_primary(servers):
    await write(servers, "key")
    first = servers.pids["Valkey 0"]
    servers.signal(0, signal.SIGKILL)
    await until(lambda: servers.pids.get("Valkey 0") not in {first, None})
    await all_back(servers)
    assert await servers.primary() == 0
    assert await servers.client(0).exists("key")
    assert not [line for line in servers.said if "can't be restarted" in line]


async def test_a_suspended_primary_is_replaced_and_follows_the_next(servers):
    await write(servers, "key")
    servers.signal(0, signal.SIGSTOP)
    await until(servers.primary, check=lambda found: found not in {0, None})
    servers.signal(0, signal.SIGCONT)
    await follows(servers, 0, "key")


async def test_a_disk_that_is_lost_while_all_is_stopped_costs_nothing(folder):
    async with ReplicatedServers(folder) as servers:
        await write(servers, "key")
    shutil.rmtree(servers.machines.folder(0))
    async with ReplicatedServers(folder) as servers:
        assert await servers.primary() != 0
        await follows(servers, 0, "key")
        await all_back(servers)
