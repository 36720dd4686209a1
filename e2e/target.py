"""The app as the tests use it, on this machine or on a cluster."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
from support.checker import check_rounds
from support.final_state import StateReader
from support.voters import Voters
from support.wait import run_in_thread, wait_for

from voting.poll.ballot import Choice
from voting.poll.question import Question
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState

Page = Literal["vote", "result"]
Role = Literal["vote", "result", "worker", "admin"]
Server = Literal["redis", "postgres"]


class Servers(NamedTuple):
    """The URLs of the servers behind the app, from this machine."""

    database_url: str
    redis_url: str


class Target(ABC):
    """The app: its pages as voters reach them, and its processes as an operator does."""

    patience: float
    """Seconds in which it recovers from a fault."""

    key: str
    """The key that signs voters' cookies."""

    @abstractmethod
    def address(self, page: Page) -> str:
        """Return the URL of a page, without a path. Its host is `localhost` or below."""

    @abstractmethod
    def ready(self) -> None:
        """Wait until all processes are ready."""

    @abstractmethod
    def kill(self, part: Role | Server) -> None:
        """Send SIGKILL to one process, and wait for another, which may not be ready yet."""

    @abstractmethod
    def restart(self, *parts: Role | Server) -> None:
        """Replace all processes of these parts, as an upgrade does, and wait for `ready`."""

    @abstractmethod
    def unavailable(self, server: Server) -> AbstractContextManager[None]:
        """Suspend a server while the context lasts."""

    @abstractmethod
    def metrics(self, role: Role) -> list[str]:
        """Return the metrics of each process of a role."""

    @abstractmethod
    def command(self, *words: str) -> str:
        """Run an operator's command, and return its output. Raises CommandError."""

    @abstractmethod
    def admin(self) -> AbstractContextManager[str]:
        """Yield the URL with which an operator on this machine opens the admin page."""

    @abstractmethod
    def servers(self) -> AbstractContextManager[Servers]:
        """Yield the URLs of the servers behind the app."""

    def ask(self, question: Question) -> None:
        """Start the next round with a question, and wait until all processes show it."""
        self.command("ask", question.title, *question.names, "--yes")
        for page in ("vote", "result"):
            wait_for(
                f"the question on the page of {page}",
                lambda page=page: self.shows(page, question),
                self.patience,
            )

    def shows(self, page: Page, question: Question) -> bool:
        """Whether all processes of a page show a question: an ingress controller takes turns."""
        with self.visitor(page) as visitor:
            return all(question.title in visitor.get("/").text for _ in range(6))

    @contextmanager
    def visitor(self, page: Page) -> Iterator[httpx.Client]:
        """Yield an HTTP client without cookies, for one page."""
        url = urlsplit(self.address(page))
        # By address: a resolver need not know names below localhost.
        with httpx.Client(
            base_url=f"http://127.0.0.1:{url.port}",
            headers={"Host": url.netloc},
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

        return run_in_thread(read())

    def tally(self) -> Counter[Choice]:
        """Return the votes of each choice on the result page, which may be a second old."""
        with self.visitor("result") as visitor:
            options = visitor.get("/api/tally").raise_for_status().json()["options"]
        return Counter({Choice(each["key"]): each["votes"] for each in options})

    def sample(self, role: Role, name: str) -> list[float]:
        """Return one metric, named with its labels, of each process of a role."""
        line = re.compile(rf"^{re.escape(name)} (\S+)$", re.MULTILINE)
        found = (line.search(text) for text in self.metrics(role))
        return [float(each[1]) for each in found if each]

    @asynccontextmanager
    async def state(self) -> AsyncIterator[StateReader]:
        """Read what the servers behind the app hold."""
        with self.servers() as servers:
            queue = Queue(connect(servers.redis_url))
            try:
                yield StateReader(servers.database_url, QueueState(queue), self.address("result"))
            finally:
                await queue.close()

    @asynccontextmanager
    async def load(self, connections: int = 16) -> AsyncIterator[Voters]:
        """Vote while the context lasts, and check at the end that each vote counts once."""
        async with self.state() as state:
            assert await state.settled() == 0
            earlier, since = await state.counts(), await state.newest_entry()
            poll = await state.poll()
        url = self.address("vote")
        async with Voters(url, self.key, poll, connections, self.patience) as voters:
            yield voters
            await asyncio.to_thread(self.ready)
        async with self.state() as state:
            final = {await state.round(): await state.final_state(earlier, since)}
            final = await state.with_totals(final)
        assert check_rounds(voters.results, final).wrong == []
