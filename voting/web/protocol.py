"""HTTP connections with limits: a client that is slow, large or odd costs little, and not for long.

uvicorn has none of these limits itself; an ingress controller may have them, or not.
"""

import asyncio
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Seconds from connecting, or from the first byte, to the last byte of a request. All are small.
REQUEST_SECONDS = 10.0

# Seconds for which a client may read nothing of its answer.
ANSWER_SECONDS = 30.0

# Bytes of a request's first line and headers. Browsers and proxies send one or two thousand.
MAX_HEAD = 16_384

# Requests that wait for the answer to the one before. Browsers and proxies have none.
MAX_PIPELINE = 16

# Connections that wait for their clients. With so many a process takes 200 MB.
MAX_WAITING = 10_000

# Files that a process asks for: each connection is one, and often it may have 1,024 by default.
MAX_FILES = 65_536

# How many `Host` headers there may be, by the version of HTTP.
_HOSTS: Mapping[str, Sequence[int]] = {"1.0": (0, 1), "1.1": (1,)}


def allow_many() -> None:
    """Let this process have as many connections as the system gives it, with some files to spare.

    Where it has no file for another connection, nobody could come any more.
    """
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS has no hard limit and yet refuses larger numbers than it likes.
    more = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        files = more
    Connection.most = min(MAX_WAITING, files * 3 // 4)


class Connection(HttpToolsProtocol):
    """One client's connection. What ends it early is told to nobody: it would fill the logs."""

    most: ClassVar[int] = MAX_WAITING
    # All that wait for their clients, in this process, the longest first.
    _waiting: ClassVar[dict["Connection", None]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request = _Limit(self.loop, REQUEST_SECONDS, self._end)
        self._answer = _Limit(self.loop, ANSWER_SECONDS, self._end)
        # Bytes: of the latest read, and of all reads in which the head is that is being read.
        self._chunk = self._read = 0
        self._in_head = False
        self._refusal = HTTPStatus.BAD_REQUEST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._request.set()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # which is not done where the client resets it
        self._request.end()
        self._answer.end()
        self._waiting.pop(self, None)
        # Its memory is free at once, though garbage is looked for seldom. A request that is still
        # being answered has been told.
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        self._read += self._chunk
        super().data_received(data)
        if self._answering:
            self._request.lift()
            self._waiting.pop(self, None)
            return
        self._request.set()
        if self._in_head and self._read > MAX_HEAD and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    @property
    def _answering(self) -> bool:
        """Whether all of the latest request is here, and not all of its answer is sent."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    # --- what the parser finds; an exception ends the connection

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._read = self._chunk

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._read > MAX_HEAD and self._head_size() > MAX_HEAD:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too large a head")
        if self._hosts() not in _HOSTS.get(self.parser.get_http_version(), ()):
            raise ValueError("not one host, or another version of HTTP")
        if len(self.pipeline) >= MAX_PIPELINE:
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        # What comes after the body is no header of the request, and has no limit.
        self.headers = _TRAILERS

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _hosts(self) -> int:
        return sum(name == b"host" for name, _ in self.headers)

    # --- the ends of a connection

    def _unsupported_upgrade_warning(self) -> None:
        # The parser stops here, and takes what follows for another request. A proxy takes it for
        # this one's body, and the next answer for the next request's.
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        self._refuse(self._refusal)

    def _refuse(self, status: HTTPStatus) -> None:
        if self._answering:
            # First the answer to what came before: its vote may be recorded.
            self.cycle.keep_alive = False
            return
        body = f"{status.phrase}\n"
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\n"
            "connection: close\r\n"
            f"\r\n{body}".encode("ascii")
        )
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._answer.set()
        elif not self._answering:  # another one, that came meanwhile
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer.set()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer.lift()

    def _wait(self) -> None:
        self._waiting[self] = None
        if len(self._waiting) > self.most:
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            longest._end()  # noqa: SLF001 - another of this class

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    def _end(self) -> None:
        # Not close(), which waits for the client to read what is not sent yet.
        self.transport.abort()


class _Trailers(list[tuple[bytes, bytes]]):
    def append(self, _: tuple[bytes, bytes]) -> None:
        """Keep nothing."""


_TRAILERS: Final = _Trailers()


def _nothing() -> None:
    pass


class _Limit:
    """Calls `act` after so many seconds, unless it is lifted before. Setting it twice is once."""

    __slots__ = ("_act", "_handle", "_loop", "_seconds")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._act = act
        self._handle: asyncio.TimerHandle | None = None

    def set(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._act)

    def lift(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def end(self) -> None:
        """Lift it for ever."""
        self.lift()
        self._act = _nothing
