"""The load generator of `voting load`, as tests need it: with a record to check, and pauses."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Self
from urllib.parse import urlsplit

from support.checker import ReceiptSeen
from voting.load.client import Connection, NoResponse, NotSent
from voting.load.generator import LoadGenerator, VoterPool
from voting.load.pages import Voter
from voting.load.record import Acknowledgement, VoteResult
from voting.poll.ballot import Version
from voting.web.cookies import VoterCookies, cookie_name

CONNECTIONS = 32
TIMEOUT = 60.0  # seconds

# How often a voter looks at the page after a vote, without voting again.
READ_RATIO = 0.1

# What a voter may see. A proxy in front of the app responds 502 to 504 when it has lost the app.
STATUSES = {
    Acknowledgement.ACKNOWLEDGED: {303},
    Acknowledgement.REFUSED: {0, 409, 503},
    Acknowledgement.UNKNOWN: {0, 503},
    Acknowledgement.NO_RESPONSE: {0, 502, 503, 504},
}


class Voters(LoadGenerator):
    """Votes at `rate` a second, or as fast as responses come, as long as the context lasts.

    Each connection has five voters at a time, which vote about twice each and soon after another:
    so a ballot that is lost is often the last of its voter, and a late one finds a newer one.
    """

    def __init__(
        self,
        url: str,
        key: str,
        poll: str,
        connections: int = CONNECTIONS,
        timeout: float = TIMEOUT,
        rate: float | None = None,
    ) -> None:
        self.results: list[VoteResult] = []
        self.receipts: list[ReceiptSeen] = []
        self._known: dict[str, Voter] = {}
        self._rounds: dict[Version, int] = {}
        self.counts: Counter[Acknowledgement] = Counter()
        self._deadline = timeout
        self._recorded = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._in_flight = 0
        cookies = VoterCookies([key])
        port = urlsplit(url).port or 80
        names = {each: cookie_name(each, secure=False, port=port) for each in ("voter", "ballot")}
        self._receipt_name = names["ballot"]
        super().__init__(
            url,
            self._add,
            rate=rate,
            revote_ratio=0.5,
            remembered=5,
            connections=connections,
            mint=lambda: f"{names['voter']}={cookies.mint(poll)}",
        )

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run())
        self._running.add_done_callback(lambda _: self._recorded.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self._running

    @property
    def voters(self) -> set[str]:
        return {each.voter for each in self.results}

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """Send nothing while the context lasts; it begins when all responses have come."""
        self._resumed.clear()
        while self._in_flight:
            await self._next_result()
        yield
        self._resumed.set()

    async def wait_for(self, number: int, acknowledgement: Acknowledgement) -> None:
        """Wait until so many votes in all have that result. Raises TimeoutError."""
        async with asyncio.timeout(self._deadline):
            while self.counts[acknowledgement] < number:
                await self._next_result()

    async def wait_for_more(self, number: int, acknowledgement: Acknowledgement) -> None:
        """Wait until so many more votes have that result. Raises TimeoutError."""
        await self.wait_for(self.counts[acknowledgement] + number, acknowledgement)

    async def _next_result(self) -> None:
        if self._running.done():
            await self._running  # raises what ended it
            raise AssertionError("the load has ended")
        self._recorded.clear()
        await self._recorded.wait()

    async def vote(self, connection: Connection, pool: VoterPool, due: float) -> Acknowledgement:
        await self._resumed.wait()
        self._in_flight += 1
        try:
            acknowledgement = await super().vote(connection, pool, due)
            self._known |= {each.id: each for each in pool.voters}
            if random.random() < READ_RATIO:
                await self._read_receipt(connection, random.choice(pool.voters))
            return acknowledgement
        finally:
            self._in_flight -= 1
            self._recorded.set()

    async def read_receipts(self, limit: int = 200) -> None:
        """Have voters look at their page once more, those with a vote of unknown outcome first."""
        unclear = {Acknowledgement.UNKNOWN, Acknowledgement.NO_RESPONSE}
        first = {each.voter for each in self.results if each.acknowledgement in unclear}
        voters = sorted(self._known.values(), key=lambda voter: voter.id not in first)
        async with Connection(self._url) as connection:
            for voter in voters[:limit]:
                await self._read_receipt(connection, voter, last=True)

    async def _read_receipt(
        self, connection: Connection, voter: Voter, *, last: bool = False
    ) -> None:
        receipt = voter.jar.get(self._receipt_name)
        if receipt is None:
            return
        with suppress(NotSent, NoResponse):
            response = await connection.get("/", voter.cookies, "HX-Request: true")
            choice, _, version = receipt.partition(".")
            if response.status == HTTPStatus.OK and b"is counted" in response.body:
                newest = Version.parse(version)
                seen = ReceiptSeen(voter.id, choice, newest, last, self._rounds[newest])
                self.receipts.append(seen)

    def _add(self, acknowledgement: Acknowledgement, _: float, result: VoteResult | None) -> None:
        assert result is not None
        assert result.status in STATUSES[acknowledgement], result
        self.results.append(result)
        if result.version is not None:
            self._rounds[result.version] = result.round
        self.counts[acknowledgement] += 1
        self._recorded.set()
