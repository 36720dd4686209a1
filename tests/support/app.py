"""The app as processes, started as a user or a container starts it."""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import redis
from sqlalchemy.ext.asyncio import AsyncEngine

from support.database import fetch
from support.environ import ENVIRON
from support.wait import DEADLINE, run_in_thread, wait_for
from voting.database.engine import create_engine
from voting.database.poll import PollChanged, close_poll, reopen_poll
from voting.database.totals import fetch_result
from voting.load.pages import read_form
from voting.local.data_dir import DataDir
from voting.local.supervisor import Guardian
from voting.local.up import WITHHELD_ENV
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState
from voting.reconcile.poll import reconcile
from voting.settings import Role

# Ends all processes that tests have started, also when the tests themselves are killed.
GUARDIAN = Guardian(os.open(os.devnull, os.O_RDONLY))
atexit.register(GUARDIAN.close)

# Workers claim the entries of dead workers after two seconds; by default they wait for fifteen.
INTERVALS = {"CLAIM_MIN_IDLE": "2", "MAINTENANCE_INTERVAL": "1"}

# For `voting up`.
FREE_PORTS = [f"--{page}-port=0" for page in ("vote", "result", "admin")]


def post_vote(
    voter: httpx.Client, choice: str, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Open the page and vote in the round that it shows."""
    form = read_form(voter.get("/").content)
    number = form.round if form else 0
    return voter.post("/vote", data={"round": number, "choice": choice}, headers=headers)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run; a zombie does not."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def holders(data: Path) -> list[psutil.Process]:
    """Return the processes of a `voting up` with that folder: all of them hold its lock file."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(file.path == str(data / "lock") for file in process.open_files()):
                found.append(process)
    return found


class VotingUp:
    """A running `voting up` on free ports; `output` is what it has printed so far."""

    def __init__(
        self,
        data: Path,
        *options: str,
        program: Sequence[str] = (sys.executable, "-P", "-m", "voting", "up"),
        popen: Mapping[str, Any] | None = None,
        **environ: str,
    ) -> None:
        self.data = data
        self.servers = DataDir(data, data / "run")
        # Not in the folder, which a test may fill or make unreadable.
        self._log = Path(tempfile.mkstemp(prefix="voting-up-", suffix=".log")[1])
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [*program, "--data", str(data), *FREE_PORTS, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**ENVIRON, **INTERVALS, **environ},
                process_group=GUARDIAN.group,
                **(popen or {}),
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ready(self, seconds: float = DEADLINE) -> Self:
        """Wait until it has printed its addresses."""

        def is_ready() -> bool:
            return "Ctrl-C" in self.output or self.process.poll() is not None

        wait_for("Ctrl-C", is_ready, seconds)
        assert self.process.poll() is None, self.output
        return self

    def refused(self) -> str:
        """Wait until it has failed and left no process behind, and return its output."""
        assert self.process.wait(DEADLINE) == 1, self.output
        assert not holders(self.data)
        assert "Traceback" not in self.output
        return self.output

    def address(self, page: str) -> str:
        """Return the URL of the `vote` or `result` page, with an address that needs no DNS."""
        [port] = re.findall(
            rf"^voting: {page}: +http://localhost:(\d+)$", self.output, re.MULTILINE
        )
        return f"http://127.0.0.1:{port}"

    @property
    def admin(self) -> str:
        """The URL of the admin page, with its token if it has one."""
        pattern = r"^voting: admin: +(http://127\.0\.0\.1:\d+(?:/\?token=\S+)?)$"
        [url] = re.findall(pattern, self.output, re.MULTILINE)
        return url

    def vote(self, choice: str, cookies: httpx.Cookies | None = None) -> bool:
        """Vote as a new voter, or as that of `cookies`, and return whether it was recorded."""
        with httpx.Client(base_url=self.address("vote"), cookies=cookies) as voter:
            try:
                return post_vote(voter, choice).status_code == 303
            except httpx.TransportError:
                return False
            finally:
                if cookies is not None:
                    cookies.update(voter.cookies)

    def tally(self) -> dict[str, int]:
        """Return the votes of each option by the result page's API; {} if it does not respond."""
        try:
            options = httpx.get(self.address("result") + "/api/tally").json()["options"]
        except httpx.TransportError:
            return {}
        return {option["key"]: option["votes"] for option in options}

    def children(self, part: str = "") -> list[psutil.Process]:
        """Return the processes of a role ("vote", "worker") or server ("postgres -D")."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                command = " ".join(child.cmdline())
                role = child.environ().get("ROLE") if "-m voting" in command else None
            except psutil.Error:
                continue  # it just ended
            # A command line with "worker" in it may be one of Postgres' own processes.
            if part == role or (part not in list(Role) and part in command):
                found.append(child)
        return found

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """Suspend a role or server, named as for `children`."""
        family = self.children(part)
        assert family
        for process in family:  # while it grows: what is suspended starts no others
            # A server process may be ending: the server, once resumed, waits for it.
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                family += process.children()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self._started.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self._started.kill()  # its guardian ends the others
            self.process.wait(DEADLINE)

    @property
    def _started(self) -> psutil.Process:
        """The process of the command, for which a shell waits if one has started it."""
        return self.process.children()[0] if self.process.name() == "bash" else self.process

    def close(self) -> None:
        """End it and its processes, if a test has not."""
        self.kill()
        try:
            wait_for("its processes to end", lambda: not holders(self.data), seconds=20)
        finally:
            for process in holders(self.data):
                process.kill()
            sys.stdout.write(self.output)  # pytest shows it if the test has failed
            self._log.unlink()

    # --- the poll

    def sql(self, statement: str) -> None:
        """Run a statement as the owner of the database."""
        run_in_thread(fetch(self.servers.database_url(), statement))

    def empty(self, *tables: str) -> None:
        """Delete all rows. TRUNCATE locks one table after the other: a deadlock with a query."""
        for each in tables:
            self.sql(f"DELETE FROM {each}")

    def reset(self) -> None:
        """Go back to an open poll without votes."""
        self.open_poll()
        wait_for("all ballots to be counted", self._all_counted)
        self.sql("TRUNCATE votes")
        self.empty("tally", "final_totals", "finals")
        with self.redis_client() as client:
            client.xtrim("{voting}:ballots", maxlen=0, approximate=False)

    def open_poll(self) -> None:
        """Open the poll as an operator does."""

        async def change(engine: AsyncEngine) -> None:
            while True:
                with suppress(PollChanged):  # a worker may have declared the totals final
                    await reopen_poll(engine, (await fetch_result(engine)).poll)
                    return

        self._change_poll(change, closed=False, planned=False)

    def close_poll(self, at: datetime | None = None) -> None:
        """Close the poll as an operator does, now or at a time."""
        self._change_poll(partial(close_poll, at=at), closed=at is None, planned=at is not None)

    def _change_poll(
        self, change: Callable[[AsyncEngine], Awaitable[None]], *, closed: bool, planned: bool
    ) -> None:
        """Change the poll, and wait until the vote page, which polls Redis, shows it."""

        async def run() -> None:
            engine = create_engine(self.servers.database_url(), name="tests")
            queue = Queue(connect(self.servers.redis_url))
            await change(engine)
            await reconcile(engine, QueueState(queue))
            await queue.close()
            await engine.dispose()

        def is_shown() -> bool:
            page = httpx.get(self.address("vote")).text
            return (" disabled" in page, 'class="closes"' in page) == (closed, planned)

        run_in_thread(run())
        wait_for("the vote page to show the change", is_shown)

    def _all_counted(self) -> bool:
        with self.redis_client() as client:
            [group] = client.xinfo_groups("{voting}:ballots")
        return group["lag"] == group["pending"] == 0

    def redis_client(self) -> redis.Redis:
        """Return a client of the queue with all rights."""
        return redis.Redis.from_url(self.servers.redis_url)


@contextmanager
def reserved_port() -> Iterator[int]:
    """Keep a free port, on which any number of processes may listen together."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield int(reserved.getsockname()[1])


def role_environment(
    role: Role, port: int, ops_port: int, urls: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a role on this machine, with those of `urls` that it may have."""
    own = {key: url for key, url in (urls or {}).items() if key not in WITHHELD_ENV[role]}
    ports = {"PORT": str(port), "OPS_PORT": str(ops_port)}
    return {**ENVIRON, "ROLE": role, "HOST": "127.0.0.1", **ports, **own}


class RoleProcess:
    """A role on two free ports; `output` is what it has printed so far."""

    def __init__(self, role: str, **environ: str) -> None:
        self._exits = ExitStack()
        self.port, self.ops_port = (self._exits.enter_context(reserved_port()) for _ in range(2))
        self._log = Path(tempfile.mkstemp(prefix="voting-role-", suffix=".log")[1])
        self._exits.callback(self._log.unlink)
        environ = {**role_environment(role, self.port, self.ops_port), **environ}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "voting"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                process_group=GUARDIAN.group,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def ask(self, path: str) -> httpx.Response:
        """Request a path of the operations port."""
        return httpx.get(f"http://127.0.0.1:{self.ops_port}{path}")

    def responds(self, path: str, status: int) -> bool:
        """Whether the operations port responds with that status. Fails if the role has ended."""
        assert self.process.poll() is None, self.output
        with suppress(httpx.TransportError):
            return self.ask(path).status_code == status
        return False

    def alive(self) -> Self:
        """Wait until it is alive."""
        wait_for("/healthz", lambda: self.responds("/healthz", 200))
        return self

    def ready(self) -> Self:
        """Wait until it is ready."""
        wait_for("/readyz", lambda: self.responds("/readyz", 200))
        return self

    def page(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}")

    def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        code = self.process.wait(DEADLINE)
        assert "Traceback" not in self.output
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        sys.stdout.write(self.output)  # pytest shows it if the test has failed
        self._exits.close()


@contextmanager
def data_folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for sockets, and which other users may traverse."""
    with tempfile.TemporaryDirectory(prefix="voting-data-") as path:
        Path(path).chmod(0o711)
        yield Path(path)
