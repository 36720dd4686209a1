"""Waiting for a result page that is late, moves on, stands still or is away."""

import json

import pytest
from aiohttp import web

from voting.load.check import check, rest
from voting.load.client import NoAnswer
from voting.load.record import Expected, Outcome, Shown, Told
from voting.poll.ballot import Choice

from .test_load import served

NOTHING = Shown(0, 0, 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("STEADY", 0.3), ("_REST", 1.0), ("_LOOK", 0.02)):
        monkeypatch.setattr(f"voting.load.check.{name}", seconds)


def page(*looks, then):
    """A result page that shows so many votes for `a` at each look, and `then` from there on.

    None: it can't be read.
    """
    left = iter(looks)

    async def answer(_):
        votes = next(left, then)
        options = {"a": {"votes": votes}, "b": {"votes": 0}}
        body = {"options": options, "votes": votes, "stale": False}
        return web.Response(status=503 if votes is None else 200, text=json.dumps(body))

    return answer


def told(voters):
    expected = Expected()
    for number in range(voters):
        expected.add(Outcome(f"{number:032x}", Choice.A, Told.YES, by_app=True, ballot=None, at=0))
    return expected


@pytest.mark.parametrize("looks", [(), (0, 1, 2), (None,), (1, None, None, 2), (9, 8, 7)])
async def test_a_result_that_agrees_in_the_end_is_right(looks):
    async with served(page(*looks, then=5)) as client:
        verdict = await check(client, told(5), NOTHING, patience=30)
    assert (verdict.agrees, verdict.line) == (True, "exact: a 5, b 0")


@pytest.mark.parametrize("looks", [(), (1, 2), (3, 4, 5), (5, None)])
async def test_a_result_that_agrees_only_on_its_way_is_wrong(looks):
    async with served(page(*looks, then=6)) as client:
        verdict = await check(client, told(5), NOTHING, patience=0.5)
    assert not verdict.agrees
    assert verdict.line == "differs: a 6 instead of 5, b 0, votes 6 instead of 5"


async def test_patience_begins_anew_whenever_the_result_moves():
    async with served(page(*range(150), then=200)) as client:
        verdict = await check(client, told(200), NOTHING, patience=2)
    assert verdict.agrees


async def test_a_result_that_is_away_is_not_known():
    async with served(page(5, then=None)) as client:
        verdict = await check(client, told(5), NOTHING, patience=0.5)
    assert not verdict.agrees
    assert verdict.line.startswith("not known: ")
    assert verdict.line.endswith(" answers 503")


async def test_what_was_cast_before_is_counted_first():
    async with served(page(1, 1, 2, 2, 3, then=4)) as client:
        assert await rest(client) == Shown(4, 0, 4)


async def test_where_others_vote_nothing_can_be_checked():
    async with served(page(*range(10_000), then=0)) as client:
        with pytest.raises(NoAnswer, match="others vote"):
            await rest(client)
