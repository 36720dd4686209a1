"""The app as `voting up` runs it on this machine."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import httpx
import psutil
from support.app import VotingUp, alive
from support.environ import ENVIRON
from support.wait import wait_for

from e2e.running import run
from e2e.target import Page, Role, Server, Servers, Target

# The names of the servers for `VotingUp.children`.
PROGRAMS = {"redis": "valkey-server", "postgres": "postgres -D"}


class Local(Target):
    """One process of each role, and real servers, in a folder."""

    patience = 60.0
    key = "a key that only these tests have"

    def __init__(self, folder: Path) -> None:
        self._up = VotingUp(folder, SECRET_KEYS=self.key).ready()

    def close(self) -> None:
        """Stop it as a user does."""
        try:
            assert self._up.interrupt() == 0, self._up.output
        finally:
            self._up.close()

    def address(self, page: Page) -> str:
        return self._up.address(page).replace("127.0.0.1", "localhost")

    def ready(self) -> None:
        wait_for("each role to be ready", self._all_ready, self.patience)

    def kill(self, part: Role | Server) -> None:
        before = self._processes(part)
        before[0].kill()
        self._replaced(part, before[:1])

    def restart(self, *parts: Role | Server) -> None:
        for part in parts:
            before = self._processes(part)
            for process in before:
                # With SIGTERM, Postgres waits for its clients to disconnect.
                process.send_signal(signal.SIGINT if part == "postgres" else signal.SIGTERM)
            self._replaced(part, before)
        self.ready()

    @contextmanager
    def unavailable(self, server: Server) -> Iterator[None]:
        with self._up.frozen(PROGRAMS[server]):
            yield

    def metrics(self, role: Role) -> list[str]:
        return [_get(process, "/metrics").text for process in self._processes(role)]

    @contextmanager
    def admin(self) -> Iterator[str]:
        yield self._up.admin

    def command(self, *words: str) -> str:
        command = (sys.executable, "-P", "-m", "voting", *words, "--data", str(self._up.data))
        return run(*command, timeout=self.patience, env=ENVIRON)

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        yield Servers(self._up.servers.database_url(), self._up.servers.redis_url)

    def _processes(self, part: Role | Server) -> list[psutil.Process]:
        found = self._up.children(PROGRAMS.get(part, part))
        assert found, f"{part} does not run"
        return found

    def _replaced(self, part: Role | Server, before: list[psutil.Process]) -> None:
        def replaced() -> bool:
            return not alive(before) and bool(self._up.children(PROGRAMS.get(part, part)))

        wait_for(f"another {part}", replaced, self.patience)

    def _all_ready(self) -> bool:
        for role in get_args(Role):
            with suppress(httpx.TransportError, psutil.Error):
                responses = [_get(process, "/readyz") for process in self._up.children(role)]
                if responses and all(each.status_code == httpx.codes.OK for each in responses):
                    continue
            return False
        return True


def _get(process: psutil.Process, path: str) -> httpx.Response:
    url = f"http://127.0.0.1:{process.environ()['OPS_PORT']}{path}"
    return httpx.get(url, trust_env=False)  # no proxy leads to this machine
