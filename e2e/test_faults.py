"""Processes die or hang while voters vote: each acknowledged vote counts once."""

import asyncio

import pytest
from support.wait import wait_for

from voting.load.record import Acknowledgement

VOTES = 500  # before and after


@pytest.mark.parametrize("part", ["worker", "vote", "redis", "postgres"])
async def test_no_vote_is_lost_when_a_process_is_killed(target, part):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(target.kill, part)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)


@pytest.mark.parametrize("part", ["worker", "redis", "postgres"])
async def test_no_vote_is_lost_when_a_process_is_restarted(target, part):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(target.restart, part)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)


async def test_votes_are_accepted_while_postgres_hangs_and_counted_later(target):
    def waiting() -> bool:
        return any(each > VOTES for each in target.sample("worker", "voting_backlog_ballots"))

    def meanwhile() -> None:
        with target.unavailable("postgres"):
            wait_for("a backlog", waiting, target.patience)

    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(meanwhile)
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}


async def test_votes_are_refused_or_unknown_while_redis_hangs(target):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)

        def failed() -> int:
            return voters.counts[Acknowledgement.REFUSED] + voters.counts[Acknowledgement.UNKNOWN]

        def meanwhile(before: int) -> None:
            with target.unavailable("redis"):
                wait_for("a vote that is not recorded", lambda: failed() > before, target.patience)

        await asyncio.to_thread(meanwhile, failed())
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
