"""An acknowledged vote is on disk: written and synced before any reply."""

import os
import shutil

import pytest
from support.voters import Voters

from faults.stack import KEY, Stack
from faults.system_calls import TRACE, calls, early_replies
from voting.load.record import Acknowledgement
from voting.poll.ballot import Version
from voting.settings import Role

pytestmark = pytest.mark.asyncio(loop_scope="session")

VOTES = 300


@pytest.fixture(autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        assert not os.environ.get("CI"), "strace is not here"
        pytest.skip("strace is not here")


async def vote_traced(stack: Stack, appendfsync: str) -> tuple[int, list[Version]]:
    """Vote while Valkey is traced; return how many are acknowledged, and which too early."""
    log = stack.folders.data / f"trace-{appendfsync}"
    async with stack.traced("Valkey", *TRACE, "-o", str(log)):
        await stack.valkey.config_set("appendfsync", appendfsync)
        await stack.ready()
        async with Voters(stack.address(Role.VOTE), KEY, await stack.state.poll()) as voters:
            await voters.wait_for(VOTES, Acknowledgement.ACKNOWLEDGED)
        await stack.state.settled()
    versions = [each.version for each in voters.results if each.version is not None]
    return len(versions), early_replies(list(calls(log)), versions)


async def test_a_vote_is_written_and_synced_before_its_voter_is_told(stack: Stack) -> None:
    acknowledged, early = await vote_traced(stack, "always")
    assert acknowledged >= VOTES
    assert early == []


async def test_it_is_found_when_the_queue_is_synced_every_second_only(stack: Stack) -> None:
    _, early = await vote_traced(stack, "everysec")
    assert early
