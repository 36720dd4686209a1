"""Processes die or hang while voters vote: each acknowledged vote counts once."""

import asyncio

import pytest
from acceptance.conftest import wait_for

from voting.load.record import Acknowledgement

VOTES = 500  # before and after


@pytest.mark.parametrize("part", ["worker", "vote", "redis", "postgres"])
async def test_no_vote_is_lost_where_one_is_killed(target, part):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(target.kill, part)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)


@pytest.mark.parametrize("part", ["worker", "redis", "postgres"])
async def test_no_vote_is_lost_where_one_is_restarted(target, part):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(target.restart, part)
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)


async def test_votes_are_taken_while_postgres_is_away_and_counted_later(target):
    def waiting() -> bool:
        return any(each > VOTES for each in target.sample("worker", "voting_backlog_ballots"))

    def meanwhile() -> None:
        with target.away("postgres"):
            wait_for("votes that nobody counts", waiting, target.patience)

    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
        await asyncio.to_thread(meanwhile)
    assert voters.counts.keys() == {Acknowledgement.ACKNOWLEDGED}


async def test_voters_are_told_what_became_of_their_votes_while_redis_is_away(target):
    async with target.load() as voters:
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)

        def told() -> int:
            return voters.counts[Acknowledgement.REFUSED] + voters.counts[Acknowledgement.UNKNOWN]

        def meanwhile(before: int) -> None:
            with target.away("redis"):
                wait_for("somebody to be told", lambda: told() > before, target.patience)

        await asyncio.to_thread(meanwhile, told())
        await voters.wait_for_more(VOTES, Acknowledgement.ACKNOWLEDGED)
