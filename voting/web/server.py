"""The HTTP server, and `serve`: runs a role and its operations port until a signal."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, cast

import structlog
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from voting.settings import RoleSettings, bind_problem
from voting.telemetry.logging import log_startup
from voting.web.ops import create_ops_app
from voting.web.protocol import LimitedHttpProtocol, raise_file_limit

# Seconds from the first signal to the end. The promise is ten; Kubernetes allows 30 less the sleep.
SHUTDOWN_TIMEOUT = 9.0

# Seconds in which `Connection: close` reaches clients with a response, before idle connections are
# closed.
CONNECTION_CLOSE_DELAY = 0.5

# Seconds between two looks at a role that is not ready since its start.
START_INTERVAL = 1.0

log = structlog.get_logger(__name__)


class Service(Protocol):
    """The work of a role: `run` returns soon after `stop`, when the work in progress is done."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `serve` handles signals, as this process runs two servers


class HTTPServer:
    """An HTTP server for `app`. Raises OSError if it can't listen there.

    uvicorn, not granian: measured on two cores, both take the same number of votes a second, but
    granian uses 1.3 times the processor time for each; and clients with a kept-alive connection
    lose no request when it stops (0 in 5 stops under load, granian 8 to 31).
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._server = _Server(
            uvicorn.Config(
                head_as_get(app),
                http=LimitedHttpProtocol,
                log_config=None,
                log_level="error",  # below, uvicorn logs mistakes of clients
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                interface="asgi3",
                # Longer than a proxy keeps idle connections (Traefik: 90 s), which could otherwise
                # send a request on a connection that this server is closing.
                timeout_keep_alive=120,
                timeout_graceful_shutdown=int(SHUTDOWN_TIMEOUT) - 2,
            )
        )
        self._socket = _listen(host, port)

    async def run(self) -> None:
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Send `Connection: close` with every response, then close idle connections and stop."""
        # For later requests: uvicorn makes `default_headers` of `encoded_headers` once a second.
        close = (b"connection", b"close")
        state = self._server.server_state
        self._server.config.encoded_headers.append(close)
        state.default_headers = [*state.default_headers, close]
        for connection in cast("set[LimitedHttpProtocol]", state.connections):
            connection.close_after_response()
        asyncio.get_running_loop().call_later(CONNECTION_CLOSE_DELAY, self._exit)

    def _exit(self) -> None:
        self._server.should_exit = True


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Have `app` handle HEAD as GET. uvicorn omits the body; Litestar would answer 405."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "HEAD":
            scope = cast("Scope", {**scope, "method": "GET"})
        await app(scope, receive, send)

    return handle


def _listen(host: str, port: int) -> socket.socket:
    """Bind `host`; `::` is every address of both families, or of IPv4 if there is no IPv6."""
    try:
        return _bind(host, port)
    except (OSError, UnicodeError) as error:
        code = getattr(error, "errno", None)
        if host == "::" and code in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return _listen("0.0.0.0", port)  # noqa: S104 - the same, in IPv4
        raise OSError(bind_problem(host, port, error)) from None


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if host == "::":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Several processes of a role may share a port; the kernel balances connections among them.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError):
        listener.close()
        raise
    return listener


async def serve(
    role: str, settings: RoleSettings, service: Service, ready: Callable[[], Awaitable[bool]]
) -> None:
    """Run `service` and the operations port until SIGTERM or SIGINT, or until one of them fails.

    After the first signal the role is not ready and `service` may finish; the second signal ends
    the process. Raises a group with a SettingsError if `ready` raises one at the start: a server
    can't be used.
    """
    raise_file_limit()
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)

    async def ready_now() -> bool:
        return not stopping.is_set() and await ready()

    async def start() -> None:
        while not await ready():  # noqa: ASYNC110 - nothing tells when a server is there
            await asyncio.sleep(START_INTERVAL)

    app = create_ops_app(role, settings.commit, ready_now)
    ops = HTTPServer(app, settings.host, settings.ops_port)
    log_startup(log, settings)
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(LimitedHttpProtocol.heartbeat.run())
        starting = tasks.create_task(start())
        serving = tasks.create_task(ops.run())
        working = tasks.create_task(service.run())
        waiting = tasks.create_task(stopping.wait())
        await asyncio.wait({serving, working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        log.info("stopping")
        service.stop()
        await asyncio.wait({working}, timeout=SHUTDOWN_TIMEOUT)
        working.cancel()  # on a timeout; acknowledged votes are in the queue
        beating.cancel()
        starting.cancel()
        ops.stop()
    log.info("stopped")
