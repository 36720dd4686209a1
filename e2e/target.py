"""What a test may ask of the app, wherever that runs."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
from checker import check
from final_state import StateReader
from voters import Voters
from waiting import run_apart

from voting.poll.ballot import Choice
from voting.queue.stream import BallotStream

Page = Literal["vote", "result"]
Role = Literal["vote", "result", "worker"]
Server = Literal["redis", "postgres"]


class Servers(NamedTuple):
    """How this machine reaches the servers behind the app."""

    database_url: str
    redis_url: str


class Target(ABC):
    """The app: its pages as a voter reaches them, and the hands of who operates it."""

    patience: float
    """Seconds in which it gets over whatever happened to it."""

    key: str
    """What voters' cookies are signed with."""

    @abstractmethod
    def address(self, page: Page) -> str:
        """Tell the URL of a page, with no path. Its host is `localhost` or below."""

    @abstractmethod
    def ready(self) -> None:
        """Wait until every part can do its work."""

    @abstractmethod
    def kill(self, part: Role | Server) -> None:
        """Kill one process, which can do nothing about it, and wait until another is in its place.

        It may not be ready yet.
        """

    @abstractmethod
    def restart(self, part: Role | Server) -> None:
        """Have all processes of a part end in good order, and others start. Wait for those."""

    @abstractmethod
    def away(self, server: Server) -> AbstractContextManager[None]:
        """Have a server answer nobody for a while."""

    @abstractmethod
    def metrics(self, role: Role) -> list[str]:
        """Read the metrics of each process of a role."""

    @abstractmethod
    def command(self, *words: str) -> str:
        """Give an operator's command, and return what it printed. Raises CommandError."""

    @abstractmethod
    def servers(self) -> AbstractContextManager[Servers]:
        """Reach the servers behind the app."""

    @contextmanager
    def visitor(self, page: Page) -> Iterator[httpx.Client]:
        """Visit a page as somebody who was never here, with what shows HTML and nothing else."""
        url = urlsplit(self.address(page))
        # By number: a resolver need not know names below localhost.
        here, host = f"http://127.0.0.1:{url.port}", {"Host": url.netloc}
        with httpx.Client(
            base_url=here,
            headers=host,
            timeout=self.patience,
            follow_redirects=True,
            trust_env=False,
        ) as visitor:
            yield visitor

    def counted(self) -> Counter[Choice]:
        """Return the votes of each choice in the database, once all are counted."""

        async def read() -> Counter[Choice]:
            async with self.state() as state:
                assert await state.settled() == 0
                return await state.counts()

        return run_apart(read())

    def tally(self) -> Counter[Choice]:
        """Tell the votes of each choice, as the result page has them: a moment old, maybe."""
        with self.visitor("result") as visitor:
            options = visitor.get("/api/tally").raise_for_status().json()["options"]
        return Counter({choice: options[choice]["votes"] for choice in Choice})

    def sample(self, role: Role, name: str) -> list[float]:
        """Read one metric, named with its labels, of each process of a role."""
        line = re.compile(rf"^{re.escape(name)} (\S+)$", re.MULTILINE)
        found = (line.search(text) for text in self.metrics(role))
        return [float(each[1]) for each in found if each]

    @asynccontextmanager
    async def state(self) -> AsyncIterator[StateReader]:
        """Read what the servers behind the app hold."""
        with self.servers() as servers:
            stream = BallotStream.at(servers.redis_url)
            try:
                yield StateReader(servers.database_url, stream, self.address("result"))
            finally:
                await stream.close()

    @asynccontextmanager
    async def load(self, connections: int = 16) -> AsyncIterator[Voters]:
        """Vote while the context lasts, and check at the end that each vote counts once."""
        async with self.state() as state:
            assert await state.settled() == 0
            earlier, since = await state.counts(), await state.newest_entry()
        async with Voters(self.address("vote"), self.key, connections, self.patience) as voters:
            yield voters
            await asyncio.to_thread(self.ready)
        async with self.state() as state:
            final = await state.final_state(earlier, since, voters.voters)
        assert check(voters.results, final).wrong == []
