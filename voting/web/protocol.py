"""uvicorn's HTTP protocol with limits on time, size and number, which uvicorn does not have.

An ingress controller may have such limits or not.
"""

import asyncio
import resource
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from voting.web.arrival import ARRIVAL, Arrival, Heartbeat

# Seconds from the connect, or from the first byte, to the last byte of a request.
RECEIVE_TIMEOUT = 10.0

# Seconds for which a client may read nothing of its response.
SEND_TIMEOUT = 30.0

# Bytes of a request line and headers. Browsers and proxies send one or two thousand.
MAX_HEAD = 16_384

# Requests that wait for the response to an earlier one. Browsers and proxies do not pipeline.
MAX_PIPELINE = 16

# Connections that wait for their client. 10,000 take 200 MB in a process.
MAX_IDLE_CONNECTIONS = 10_000

# Open files of a process. Each connection is one; the usual soft limit is 1,024.
MAX_FILES = 65_536

# Allowed numbers of `Host` headers by HTTP version.
_HOST_HEADERS: Mapping[str, Sequence[int]] = {"1.0": (0, 1), "1.1": (1,)}


def raise_file_limit() -> None:
    """Raise the limit of open files, and limit idle connections to three quarters of it.

    A server without a free file descriptor cannot accept any connection.
    """
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports no hard limit, yet refuses large numbers.
    more = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        files = more
    LimitedHttpProtocol.max_idle = min(MAX_IDLE_CONNECTIONS, files * 3 // 4)


class LimitedHttpProtocol(HttpToolsProtocol):
    """The connection of one client.

    It logs nothing about connections that it ends early, so that clients cannot fill the logs.
    """

    max_idle: ClassVar[int] = MAX_IDLE_CONNECTIONS
    heartbeat: ClassVar[Heartbeat] = Heartbeat()
    # The connections of this process that wait for their client, the longest-idle first.
    _idle: ClassVar[dict["LimitedHttpProtocol", None]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receive_timeout, self._send_timeout = _Timeout(), _Timeout()
        # Bytes of the latest read, and of all reads since the one in which the current head began.
        self._chunk = self._read = 0
        self._in_head = False
        self._error_status = HTTPStatus.BAD_REQUEST
        self._arrival: Arrival
        self._rejected = False
        """Nothing more is read: the connection ends with the response to the last whole request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._receive_timeout.start(RECEIVE_TIMEOUT, self)
        self._mark_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does not if the client reset the connection
        self._receive_timeout.cancel()
        self._send_timeout.cancel()
        self._idle.pop(self, None)
        # Break the reference cycles, as the garbage collector runs rarely. uvicorn has already sent
        # http.disconnect to a request in progress.
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        self.heartbeat.check()  # this read may come before the timer that beats
        self._chunk = len(data)
        self._read += self._chunk
        super().data_received(data)
        if self._responding:
            self._receive_timeout.cancel()
            self._idle.pop(self, None)
            return
        self._receive_timeout.start(RECEIVE_TIMEOUT, self)
        if self._in_head and self._read > MAX_HEAD and not self.transport.is_closing():
            self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    @property
    def _responding(self) -> bool:
        """Whether the latest request is complete and its response is not."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    # --- parser callbacks; an exception ends the connection

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._read = self._chunk

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._read > MAX_HEAD and self._head_size() > MAX_HEAD:
            self._error_status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("request head too large")
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts not in _HOST_HEADERS.get(self.parser.get_http_version(), ()):
            raise ValueError("invalid number of Host headers, or unsupported HTTP version")
        if len(self.pipeline) >= MAX_PIPELINE:
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()
        self._arrival = Arrival(self.heartbeat, self.transport.is_closing)
        cast("dict[str, Any]", self.scope)["extensions"] = {ARRIVAL: self._arrival}
        # The parser appends trailers here, without a limit. They are not headers of the request.
        self.headers = _TRAILERS

    def on_message_complete(self) -> None:
        self._arrival.complete()
        super().on_message_complete()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    # --- the end of a connection

    def close_after_response(self) -> None:
        """Announce the end in the response to the latest request, if it has not started."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _unsupported_upgrade_warning(self) -> None:
        # The parser stops here and reads what follows as another request. A proxy may read it as
        # the body of this one, and would pass the next response to another client.
        self.close_after_response()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message
        self._reject(self._error_status)

    def _reject(self, status: HTTPStatus) -> None:
        # Earlier requests get their responses first: their votes may be recorded.
        if self.pipeline and not self._responding:
            self.pipeline.popleft()  # the rejected one
            self._rejected = True
            return
        if self._responding:
            self._rejected = True
            self.close_after_response()
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
        is_last = not self.pipeline
        super().on_response_complete()
        if self._rejected and is_last:
            self.transport.close()
        if self.transport.is_closing():
            self._send_timeout.start(SEND_TIMEOUT, self)
        elif not self._responding:  # not to a pipelined request either
            self._mark_idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timeout.start(SEND_TIMEOUT, self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._send_timeout.cancel()

    def _mark_idle(self) -> None:
        self._idle[self] = None
        if len(self._idle) > self.max_idle:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.abort()

    def timeout_keep_alive_handler(self) -> None:
        self.abort()

    def abort(self) -> None:
        # Not close(), which waits until the client has read the unsent data.
        self.transport.abort()


class _Trailers(list[tuple[bytes, bytes]]):
    def append(self, _: tuple[bytes, bytes]) -> None:
        """Drop the trailer."""


_TRAILERS: Final = _Trailers()


class _Timeout:
    """Aborts a connection after some seconds, unless cancelled. A second `start` is ignored."""

    __slots__ = ("_handle",)

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, connection: LimitedHttpProtocol) -> None:
        if self._handle is None:
            self._handle = connection.loop.call_later(seconds, connection.abort)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
