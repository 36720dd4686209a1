"""Who votes when: a crowd that grows and changes its mind, at a pace of its own."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count

from voting.load.client import SILENCE, Client, NoAnswer, Voter
from voting.load.record import Outcome, Told
from voting.poll.ballot import Choice

# Who may change their mind, where the number of voters has no limit.
_REMEMBERED = 10_000

_DRAIN = 5.0  # seconds for what is in flight when it is stopped

# Seconds after a vote that was not recorded: a server that is away would get all of them at once.
_PAUSE = 0.1


class Crowd:
    """Picks who votes next, never somebody whose vote is in flight.

    At most `most` different voters (None: any number); `changes` is the share of votes by somebody
    who has voted before. As long as fewer than `most` are taken, `take` has somebody.
    """

    def __init__(self, most: int | None, changes: float) -> None:
        self._most = most
        self._changes = changes
        self._resting: list[Voter] = []
        self._voters = 0

    def take(self) -> Voter | None:
        """Pick who votes next: somebody who rests, or None for somebody new."""
        new = self._most is None or self._voters < self._most
        if self._resting and not (new and random.random() >= self._changes):  # noqa: S311 - no secret
            return self._pull()
        self._voters += 1
        return None

    def give_back(self, voter: Voter | None) -> None:
        """Let somebody rest who was taken; None where nobody new could come."""
        if voter is None:
            self._voters -= 1
            return
        self._resting.append(voter)
        if self._most is None and len(self._resting) > _REMEMBERED:
            self._pull()

    def _pull(self) -> Voter:
        index = random.randrange(len(self._resting))  # noqa: S311 - no secret
        self._resting[index], self._resting[-1] = self._resting[-1], self._resting[index]
        return self._resting.pop()


def choose(last: Choice | None) -> Choice:
    """Pick either option, or the one that is not `last`."""
    return random.choice([each for each in Choice if each is not last])  # noqa: S311 - no secret


# Called with what a voter was told, the seconds since its vote was due, and what to record.
Listener = Callable[[Told, float, Outcome | None], None]


class Casting:
    """Casts `votes` (None: until `stop`), at `rate` a second (None: as fast as answered).

    A vote is due at its moment whatever becomes of the others, and at most `connections` are in
    flight: those that come late wait, and their latency has that wait in it.
    """

    def __init__(  # noqa: PLR0913 - what the command line has
        self,
        client: Client,
        listener: Listener,
        *,
        votes: int | None,
        rate: float | None,
        voters: int | None,
        changes: float,
        connections: int,
    ) -> None:
        self._client = client
        self._listener = listener
        self._rate = rate
        self._crowd = Crowd(voters, changes)
        self._slots = asyncio.Semaphore(min(connections, voters or connections))
        self._numbers: Iterable[int] = count() if votes is None else range(votes)
        self._tasks = asyncio.TaskGroup()
        self._limit = asyncio.timeout(None)
        self._dispatching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Return when all votes are answered; the listener hears of each that was sent.

        Raises what the listener raises.
        """
        try:
            with suppress(TimeoutError):
                async with self._limit, self._tasks:
                    self._dispatching = self._tasks.create_task(self._dispatch())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def stop(self) -> None:
        """Start no more votes, and give those in flight a few seconds."""
        if self._dispatching is not None:
            self._dispatching.cancel()
            self._limit.reschedule(asyncio.get_running_loop().time() + _DRAIN)

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in self._numbers:
            due = start + number / self._rate if self._rate else start
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            await self._slots.acquire()
            self._tasks.create_task(self._vote(due if self._rate else loop.time()))

    async def _vote(self, due: float) -> None:
        voter = self._crowd.take()
        try:
            with suppress(NoAnswer):
                voter = voter or await self._client.open()
            told = Told.NO if voter is None else await self._cast(voter, due)
            if voter is None:
                self._listener(told, asyncio.get_running_loop().time() - due, None)
            if told is not Told.YES and self._rate is None:
                await asyncio.sleep(_PAUSE)
        finally:
            self._crowd.give_back(voter)
            self._slots.release()

    async def _cast(self, voter: Voter, due: float) -> Told:
        voter.choice = choose(voter.choice)
        answer = SILENCE
        try:
            answer = await self._client.vote(voter, voter.choice)
        finally:
            seconds = asyncio.get_running_loop().time() - due
            at = round(time.time(), 3)
            outcome = Outcome(voter.id, voter.choice, *answer, at)
            self._listener(answer.told, seconds, outcome)
        return answer.told
