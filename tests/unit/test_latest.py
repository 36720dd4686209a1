import asyncio

import pytest

from voting.web import cache as latest
from voting.web.cache import Latest


class Source:
    """Answers 1, 2, 3 ..., or fails, or waits, as told."""

    def __init__(self):
        self.asked = 0
        self.error = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self):
        self.asked += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return self.asked


async def test_many_who_ask_at_once_cause_one_question():
    source = Source()
    numbers = Latest(source, interval=60)
    assert await asyncio.gather(*(numbers.get() for _ in range(100))) == [1] * 100
    assert source.asked == 1


async def test_nobody_asks_while_nobody_wants_to_know():
    source = Source()
    Latest(source, interval=0)
    await asyncio.sleep(0)
    assert source.asked == 0


async def test_the_answer_is_fresh_after_the_interval():
    numbers = Latest(Source(), interval=0)
    assert [await numbers.get() for _ in range(3)] == [1, 2, 3]


async def test_the_last_answer_stays_while_asking_fails_and_a_line_says_so_once(caplog):
    source = Source()
    numbers = Latest(source, interval=0)
    assert await numbers.get() == 1
    source.error = ConnectionError("away")
    assert [await numbers.get() for _ in range(3)] == [1, 1, 1]
    assert numbers.failing
    source.error = None
    while numbers.failing:
        await numbers.get()
        await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == [
        "no fresh answer, the last one stays",
        "fresh answers again",
    ]


async def test_there_is_no_answer_before_the_first():
    source = Source()
    source.error = ConnectionError("away")
    assert await Latest(source, interval=0).get() is None


async def test_who_asks_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(latest, "PATIENCE", 0.01)
    source = Source()
    numbers = Latest(source, interval=0)
    assert await numbers.get() == 1
    source.go.clear()
    assert await numbers.get() == 1
    assert numbers.failing
    source.go.set()
    while numbers.failing:
        await numbers.get()
        await asyncio.sleep(0)
    assert await numbers.get() > 1


async def test_one_who_gives_up_does_not_end_the_question_for_others():
    source = Source()
    source.go.clear()
    numbers = Latest(source, interval=60)
    impatient = asyncio.create_task(numbers.get())
    patient = asyncio.create_task(numbers.get())
    await asyncio.sleep(0)
    impatient.cancel()
    source.go.set()
    assert await patient == 1
    with pytest.raises(asyncio.CancelledError):
        await impatient
