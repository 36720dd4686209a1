"""Generates load: voters that vote and vote again, at a rate of their own."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import count

from voting.load.client import RESPONSE_TIMEOUT, Connection
from voting.load.pages import Form, PageError, Voter, new_voter, offered, vote
from voting.load.record import Acknowledgement, VoteResult
from voting.poll.ballot import Choice

_DRAIN_TIMEOUT = 5.0  # seconds for responses to votes in flight, after a stop

# Seconds after a vote that was not recorded: without a rate, a server that is down would get
# thousands of requests a second.
_BACKOFF = 0.1


class VoterPool:
    """The voters of one connection, so none has two votes in flight.

    At most `limit` different voters (None: any number, of which the last `remembered` may vote
    again). `revote_ratio` is the share of votes by voters who have voted before.
    """

    def __init__(self, limit: int | None, revote_ratio: float, remembered: int = 100) -> None:
        self._limit = limit
        self._revote_ratio = revote_ratio
        self._voters: deque[Voter] = deque(maxlen=limit or remembered)
        self.form: Form | None = None
        """The last that any of them has seen."""

    @property
    def voters(self) -> Sequence[Voter]:
        return tuple(self._voters)

    def pick(self) -> Voter | None:
        """Return a voter that votes again; None if a new one has to be added."""
        full = len(self._voters) == self._limit
        if self._voters and (full or random.random() < self._revote_ratio):  # noqa: S311 - no secret
            return random.choice(self._voters)  # noqa: S311 - no secret
        return None

    def add(self, voter: Voter) -> None:
        self._voters.append(voter)


def choose(options: Sequence[Choice], last: Choice | None) -> Choice:
    """Pick one of the options, but not the last choice of the voter if there is another."""
    others = [each for each in options if each is not last]
    return random.choice(others or options)  # noqa: S311 - no secret


# Its arguments: what the voter was told, the seconds since the vote was due, and the vote; None if
# the page did not open, so that no vote was sent.
Listener = Callable[[Acknowledgement, float, VoteResult | None], None]


class LoadGenerator:
    """Casts `votes` (None: until `stop`) at `rate` a second (None: as fast as responses come).

    Each connection has voters of its own and one request in flight. With a rate, each vote is due
    at its own time: if all connections wait for responses it is sent late, and its latency includes
    the delay. `mint` makes the cookie of a new voter; without it the page is opened for one.

    A voter votes for one of `options` (None: of all) of the round that its page shows, and learns
    of the next round when its vote is refused.
    """

    def __init__(  # noqa: PLR0913 - the options of the command line
        self,
        url: str,
        record: Listener,
        *,
        votes: int | None = None,
        rate: float | None = None,
        voters: int | None = None,
        revote_ratio: float = 0.1,
        remembered: int = 100,
        connections: int = 64,
        options: Collection[Choice] | None = None,
        mint: Callable[[], str] | None = None,
        timeout: float = RESPONSE_TIMEOUT,
    ) -> None:
        self._url = url
        self._record = record
        self._rate = rate
        self._options = options
        self._mint = mint
        self._timeout = timeout
        self._numbers: Iterator[int] = count() if votes is None else iter(range(votes))
        used = connections if voters is None else min(voters, connections)
        shares = (voters and voters // used + (each < voters % used) for each in range(used))
        self._pools = [VoterPool(each, revote_ratio, remembered) for each in shares]
        self._stopping = asyncio.Event()
        self._drain: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Return when each vote has its response. Raises what `record` raises."""
        start = asyncio.get_running_loop().time()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._drain, asyncio.TaskGroup() as tasks:
                    for pool in self._pools:
                        tasks.create_task(self._send(pool, start))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def stop(self) -> None:
        """Send no more votes, and wait five seconds at most for responses to those in flight."""
        self._stopping.set()
        if self._drain is not None:
            self._drain.reschedule(asyncio.get_running_loop().time() + _DRAIN_TIMEOUT)

    async def _send(self, pool: VoterPool, start: float) -> None:
        loop = asyncio.get_running_loop()
        async with Connection(self._url, self._timeout) as connection:
            for number in self._numbers:
                due = start + number / self._rate if self._rate else loop.time()
                if (early := due - loop.time()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), early)
                if self._stopping.is_set():
                    break
                acknowledgement = await self.vote(connection, pool, due)
                if acknowledgement is not Acknowledgement.ACKNOWLEDGED and not self._rate:
                    await asyncio.sleep(_BACKOFF)

    async def vote(self, connection: Connection, pool: VoterPool, due: float) -> Acknowledgement:
        """Cast one vote and record it; if it is cancelled, as one without a response."""
        loop = asyncio.get_running_loop()
        try:
            voter = pool.pick() or await self._add_voter(connection, pool)
            choice = choose(offered(voter.form, self._options), voter.choice)
        except PageError:
            self._record(Acknowledgement.REFUSED, loop.time() - due, None)
            return Acknowledgement.REFUSED
        number = voter.form.round
        result = VoteResult(
            voter.id, choice, Acknowledgement.NO_RESPONSE, at=time.time(), round=number
        )
        try:
            result = await vote(connection, voter, choice)
        finally:
            self._record(result.acknowledgement, loop.time() - due, result)
        pool.form = voter.form
        return result.acknowledgement

    async def _add_voter(self, connection: Connection, pool: VoterPool) -> Voter:
        if self._mint and pool.form:
            voter = Voter(self._mint(), pool.form)
        else:
            voter = await new_voter(connection)
            if self._mint:
                voter.cookie = self._mint()
        pool.add(voter)
        return voter
