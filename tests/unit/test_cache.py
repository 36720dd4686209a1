import asyncio

import pytest

from voting.web import cache
from voting.web.cache import SingleFlight


class Source:
    """Returns 1, 2, 3 ..., raises `error` if it is set, and waits for `go`."""

    def __init__(self):
        self.fetches = 0
        self.error = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self):
        self.fetches += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.fetches


async def test_concurrent_callers_cause_one_fetch():
    source = Source()
    numbers = SingleFlight(source, ttl=60)
    assert await asyncio.gather(*(numbers.get() for _ in range(100))) == [1] * 100
    assert source.fetches == 1


async def test_without_callers_nothing_is_fetched():
    source = Source()
    SingleFlight(source, ttl=0)
    await asyncio.sleep(0)
    assert source.fetches == 0


async def test_the_value_is_refreshed_after_its_ttl():
    numbers = SingleFlight(Source(), ttl=0)
    assert [await numbers.get() for _ in range(3)] == [1, 2, 3]


async def test_the_last_value_is_served_while_refreshes_fail_and_logged_once(caplog):
    source = Source()
    numbers = SingleFlight(source, ttl=0)
    assert await numbers.get() == 1
    source.error = ConnectionError("away")
    assert [await numbers.get() for _ in range(3)] == [1, 1, 1]
    assert numbers.stale
    source.error = None
    while numbers.stale:
        await numbers.get()
        await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == [
        "refresh failed, the last value is served",
        "refresh works again",
    ]


async def test_a_caller_waits_for_a_slow_refresh_until_a_timeout(monkeypatch):
    monkeypatch.setattr(cache, "REFRESH_TIMEOUT", 0.01)
    source = Source()
    numbers = SingleFlight(source, ttl=0)
    assert await numbers.get() == 1
    source.go.clear()
    assert await numbers.get() == 1
    assert numbers.stale
    source.go.set()
    while numbers.stale:
        await numbers.get()
        await asyncio.sleep(0)
    assert await numbers.get() > 1


async def test_a_refresh_shares_no_fetch_that_began_before_it():
    source = Source()
    source.go.clear()
    numbers = SingleFlight(source, ttl=60)
    earlier = asyncio.create_task(numbers.get())
    await asyncio.sleep(0)
    later = [asyncio.create_task(numbers.refresh()) for _ in range(100)]
    await asyncio.sleep(0)
    source.go.set()
    assert (await earlier, await asyncio.gather(*later)) == (1, [2] * 100)
    assert (await numbers.get(), source.fetches) == (2, 2)


async def test_a_refresh_that_fails_returns_the_last_value_as_stale(monkeypatch):
    monkeypatch.setattr(cache, "REFRESH_TIMEOUT", 0.01)
    source = Source()
    numbers = SingleFlight(source, ttl=60)
    assert await numbers.refresh() == 1
    source.error = ConnectionError("away")
    assert (await numbers.refresh(), numbers.stale) == (1, True)
    source.error = None
    assert (await numbers.refresh(), numbers.stale) == (3, False)
    source.go.clear()
    assert (await numbers.refresh(), numbers.stale) == (3, True)


async def test_a_cancelled_caller_does_not_cancel_the_refresh_of_others():
    source = Source()
    source.go.clear()
    numbers = SingleFlight(source, ttl=60)
    impatient = asyncio.create_task(numbers.get())
    patient = asyncio.create_task(numbers.get())
    await asyncio.sleep(0)
    impatient.cancel()
    source.go.set()
    assert await patient == 1
    with pytest.raises(asyncio.CancelledError):
        await impatient
