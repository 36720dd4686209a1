"""Running a role: its job beside its operations port, until a signal asks it to stop."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import structlog
import uvicorn
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from voting.settings import RoleSettings
from voting.telemetry.logging import log_startup
from voting.web.ops import create_ops_app
from voting.web.protocol import Connection, allow_many

# From the first signal to the end. Kubernetes gives 30 s less the preStop sleep; ten are promised.
DRAIN = 9.0

# How long clients have to learn, with an answer, that their connection ends.
LEAVE = 0.5

log = structlog.get_logger(__name__)


class Job(Protocol):
    """What a role does: `run` returns soon after `stop`, with whatever is in hand finished."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `serve` listens for signals: two servers in one process can't both


class Site:
    """An HTTP server for `app`. Raises OSError where the port can't be had.

    uvicorn, not granian: measured on two cores, both take the same number of votes a second but
    granian spends 1.3 times the processor on each; and clients that keep their connection lose no
    request when it is stopped (0 in 5 stops under load, granian 8 to 31).
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        self._draining = False
        self._server = _Server(
            uvicorn.Config(
                self._closing,
                http=Connection,
                log_config=None,
                log_level="error",  # below it, uvicorn tells what clients do wrong
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                interface="asgi3",
                # Longer than a proxy keeps its idle connections (Traefik: 90 s), or it would send
                # a request into a connection that is just being closed.
                timeout_keep_alive=120,
                timeout_graceful_shutdown=int(DRAIN) - 2,
            )
        )
        self._socket = _listen(host, port)

    async def run(self) -> None:
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Tell clients that keep their connection to leave, then close what is idle."""
        self._draining = True
        asyncio.get_running_loop().call_later(LEAVE, setattr, self._server, "should_exit", True)  # noqa: FBT003 - setattr has no other form

    async def _closing(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if self._draining and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Several processes of a role may share a port; the kernel spreads connections over them.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(f"port {port} can't be had: {error.strerror}") from None
    return listener


async def serve(
    role: str, settings: RoleSettings, job: Job, ready: Callable[[], Awaitable[bool]]
) -> None:
    """Run `job` and the operations port until SIGTERM or SIGINT, or until one of them fails.

    The first signal turns readiness off and lets the job finish; the second ends the process.
    """
    allow_many()
    stopping = asyncio.Event()
    _on_signals(stopping)

    async def ready_now() -> bool:
        return not stopping.is_set() and await ready()

    ops = Site(create_ops_app(role, settings.commit, ready_now), settings.host, settings.ops_port)
    log_startup(log, settings)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(ops.run())
        working = tasks.create_task(job.run())
        waiting = tasks.create_task(stopping.wait())
        await asyncio.wait({serving, working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        log.info("stopping")
        job.stop()
        await asyncio.wait({working}, timeout=DRAIN)
        working.cancel()  # where it took too long; nothing that was acknowledged is lost
        ops.stop()
    log.info("stopped")


def _on_signals(stopping: asyncio.Event) -> None:
    def handle(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
