"""Whether the client of a request may have given it up."""

import asyncio
import time

import pytest

from voting.web import arrival
from voting.web.arrival import MAX_WAIT, Arrival, Heartbeat


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock and the wall clock, which a test moves."""

    class Clock:
        monotonic = 50.0
        wall = 1_700_000_000.0

        def advance(self, seconds, *, monotonic=True):
            self.monotonic += seconds if monotonic else 0
            self.wall += seconds

    clock = Clock()
    monkeypatch.setattr(arrival.time, "monotonic", lambda: clock.monotonic)
    monkeypatch.setattr(arrival.time, "time", lambda: clock.wall)
    return clock


def complete(heartbeat, *, is_closing=False):
    arrived = Arrival(heartbeat, lambda: is_closing)
    arrived.complete()
    return arrived


def test_a_request_is_current_for_a_while(clock):
    arrived = complete(Heartbeat())
    assert arrived.is_current()
    clock.advance(MAX_WAIT - 0.1)
    assert arrived.is_current()
    clock.advance(0.2)
    assert not arrived.is_current()


def test_a_request_whose_client_has_left_is_not():
    assert not complete(Heartbeat(), is_closing=True).is_current()


@pytest.mark.parametrize("first", ["read", "timer"])
def test_requests_that_waited_while_the_process_was_suspended_are_not(clock, first):
    heartbeat = Heartbeat()
    heartbeat._start()
    before = complete(heartbeat)
    clock.advance(10)
    if first == "timer":
        heartbeat.check()
        heartbeat._start()
    heartbeat.check()
    assert not before.is_current()
    assert not complete(heartbeat).is_current()
    clock.advance(0.5)  # from the queue of connections that were not accepted yet
    assert not complete(heartbeat).is_current()
    clock.advance(0.6)
    assert complete(heartbeat).is_current()


async def test_a_jump_of_the_wall_clock_is_a_suspension_too(clock, monkeypatch):
    """The monotonic clock of a paused virtual machine may stand still."""
    beats, sleep = 0, asyncio.sleep

    async def beat(seconds):
        nonlocal beats
        beats += 1
        clock.advance(seconds)
        if beats == 2:
            clock.advance(60, monotonic=False)
        await sleep(0)

    monkeypatch.setattr(arrival.asyncio, "sleep", beat)
    heartbeat = Heartbeat()
    task = asyncio.create_task(heartbeat.run())
    while beats < 2:
        assert complete(heartbeat).is_current()
        await sleep(0)
    while beats < 3:
        await sleep(0)
    assert not complete(heartbeat).is_current()
    while beats < 9:
        await sleep(0)
    assert complete(heartbeat).is_current()
    task.cancel()


async def test_it_beats_in_time():
    heartbeat = Heartbeat()
    task = asyncio.create_task(heartbeat.run())
    await asyncio.sleep(0)
    heartbeat.check()
    assert not heartbeat.was_suspended(time.monotonic())
    task.cancel()
