"""Voters who vote, change their minds, and remember what they were told."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

from checker import Request, Told
from client import Answer, Connection

from voting.poll.ballot import Choice, Version
from voting.web.cookies import VoterCookies

CONNECTIONS = 32
PATIENCE = 60.0  # seconds


class Crowd:
    """Votes as fast as it is answered, as long as the context lasts.

    Each connection has voters of its own, who vote one after the other, about twice each and soon
    after another: so a ballot that is lost is often the last of its voter, and one that comes late
    finds a newer one.
    """

    def __init__(
        self,
        address: str,
        key: str,
        connections: int = CONNECTIONS,
        patience: float = PATIENCE,
    ) -> None:
        self._address = address
        self._connections = connections
        self._patience = patience
        self._cookies = VoterCookies([key])
        self._stop = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._asking = 0
        self.requests: list[Request] = []
        self.told: Counter[Told] = Counter()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._vote()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Have nobody vote, once all that is on its way is answered."""
        self._go.clear()
        while self._asking:
            await asyncio.sleep(0.01)
        yield
        self._go.set()

    @property
    def voters(self) -> set[UUID]:
        return {request.voter for request in self.requests}

    async def hears(self, told: Told, more: int = 1) -> None:
        """Wait until so many more ballots have got that answer."""
        await self.reaches(told, self.told[told] + more)

    async def reaches(self, told: Told, number: int) -> None:
        """Wait until so many ballots in all have got that answer. Raises TimeoutError."""
        async with asyncio.timeout(self._patience):
            while self.told[told] < number:
                for task in self._tasks:
                    if task.done():
                        task.result()  # has failed
                await asyncio.sleep(0.01)

    async def _vote(self) -> None:
        mine: deque[tuple[str, UUID]] = deque(maxlen=5)
        async with Connection(self._address) as connection:
            while not self._stop.is_set():
                if not mine or random.random() < 0.5:
                    cookie = self._cookies.mint()
                    voter = self._cookies.read(cookie)
                    assert voter is not None
                    mine.append((f"voter={cookie}", voter))
                cookie, voter = random.choice(mine)
                choice = random.choice(list(Choice))
                await self._go.wait()
                self._asking += 1
                answer = await connection.vote(cookie, choice)
                self._asking -= 1
                told = _told(answer)
                version = _version(answer) if told is Told.ACKNOWLEDGED else None
                self.requests.append(Request(voter, choice, told, version))
                self.told[told] += 1
                if told is not Told.ACKNOWLEDGED:
                    await asyncio.sleep(0.05)


def _told(answer: Answer) -> Told:
    if answer.status in {502, 503, 504} and "voting-recorded" not in answer.headers:
        return Told.NOTHING  # by an ingress controller, which does not know
    said = answer.text.partition("<template")[0]  # which holds words for another day
    match answer.status:
        case 303:
            return Told.ACKNOWLEDGED
        case 0:
            return Told.NOTHING
        case -1:
            return Told.REFUSED
        case 503 if "may have been" in said:
            return Told.UNKNOWN
        case 503 | 409 if "was not recorded" in said:
            return Told.REFUSED
    raise AssertionError(f"no voter should see this: {answer}")


def _version(answer: Answer) -> Version:
    """Read the receipt: the cookie that holds the choice and the ballot's id."""
    value = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
    return Version.parse(value.partition(".")[2])
