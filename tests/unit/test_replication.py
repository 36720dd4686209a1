"""Which of three servers is the primary, as one of them starts."""

import asyncio
import socket
from contextlib import suppress

import pytest

from voting.local.replication import Machines
from voting.local.supervisor import StartError


@pytest.fixture
def machines(tmp_path):
    """Machines on which nothing runs: what Sentinels say is in their files."""
    return Machines.of(tmp_path)


def record(machines, sentinel, *, primary, epoch=0):
    machines.folder(sentinel).mkdir(exist_ok=True)
    (machines.folder(sentinel) / "sentinel.conf").write_text(
        f"sentinel monitor voting 127.0.0.1 {machines.ports[primary]} 2\n"
        f"sentinel config-epoch voting {epoch}\n"
    )


def give_data(machines, server):
    (machines.folder(server) / "appendonlydir").mkdir(parents=True)


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_at_the_first_start_the_first_is_the_primary(machines, number):
    assert await machines.primary_for(number) == 0


@pytest.mark.parametrize("has_data", [False, True])
async def test_a_server_follows_the_primary_that_sentinels_name(machines, has_data):
    record(machines, 2, primary=1)
    if has_data:
        give_data(machines, 0)
    assert await machines.primary_for(0) == 1


async def test_the_primary_with_its_data_is_the_primary_again(machines):
    record(machines, 0, primary=2)
    give_data(machines, 2)
    assert await machines.primary_for(2) == 2


async def test_a_primary_without_its_data_waits_until_another_is_chosen(machines):
    record(machines, 1, primary=0, epoch=4)
    starting = asyncio.create_task(machines.primary_for(0))
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(starting), 0.3)
    assert not starting.done()
    record(machines, 1, primary=2, epoch=5)
    assert await starting == 2


async def test_the_sentinel_with_the_latest_change_is_right(machines):
    give_data(machines, 0)
    record(machines, 0, primary=0, epoch=1)
    record(machines, 1, primary=2, epoch=12)
    record(machines, 2, primary=1, epoch=3)
    assert await machines.primary_for(0) == 2


async def test_a_server_does_not_hold_itself_for_the_primary_while_it_is_replaced(machines):
    give_data(machines, 0)
    for sentinel, primary in enumerate([0, 0, 1]):
        record(machines, sentinel, primary=primary, epoch=1)
    assert await machines.primary_for(0) == 1


def test_ports_and_password_stay_and_a_port_that_is_taken_is_named(machines):
    assert Machines.of(machines.data) == machines
    assert len(set(machines.ports)) == 6
    port = machines.ports[4]
    problem = pytest.raises(StartError, match=f"^port {port}, which .*machines.json")
    with socket.create_server(("127.0.0.1", port)), problem:
        Machines.of(machines.data)
