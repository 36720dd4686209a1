"""Redis in three pods: one is lost with its disk while voters vote."""

import asyncio

import pytest

from voting.load.record import Acknowledgement

pytestmark = [pytest.mark.cluster, pytest.mark.replicated]

VOTES = 1000


async def test_losing_the_primary_with_its_disk_loses_no_vote(cluster):
    async with cluster.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        lost = await asyncio.to_thread(cluster.primary)
        # First without a word to the others: a deleted pod would hand over.
        await asyncio.to_thread(cluster.freeze, lost)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        assert await asyncio.to_thread(cluster.primary) != lost
        await asyncio.to_thread(cluster.replace, lost)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        # The empty disk was filled, not copied.
        assert await asyncio.to_thread(cluster.primary) != lost


async def test_a_deleted_primary_hands_over_and_loses_no_vote(cluster):
    async with cluster.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        before = await asyncio.to_thread(cluster.primary)
        await asyncio.to_thread(cluster.kubectl, "delete", "pod", before, timeout=120)
        assert await asyncio.to_thread(cluster.primary) != before
        await asyncio.to_thread(cluster.ready)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
