"""An HTTP/1.1 client that costs little: requests are bytes, and httptools parses in C.

It never follows a redirect and never sends a request twice.
"""

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpResponseParser

from voting import __version__

CONNECT_TIMEOUT = 5.0  # seconds

# As long as the page waits for the response to a vote.
RESPONSE_TIMEOUT = 8.0


class NotSent(Exception):
    """No connection could be made, so the request was not sent."""


class NoResponse(Exception):
    """The request was sent, maybe in part, and no response came: its effect is unknown."""


class GivenUp(NoResponse):
    """No response came in time."""


@dataclass(slots=True)
class Response:
    """Header names are in lower case; a cookie is the name and value of a `Set-Cookie`."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


@cache  # reading the trusted certificates takes 20 to 90 ms
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


class Address:
    """The server that a URL names; `localhost` and names below it are 127.0.0.1 (RFC 6761, 6.3)."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.tls = _tls_context() if parts.scheme == "https" else None
        self.name = parts.hostname or ""
        self.host = "127.0.0.1" if f".{self.name}".endswith(".localhost") else self.name
        self.port = parts.port or (443 if self.tls else 80)
        self._prefix = parts.path.rstrip("/")
        host = parts.netloc.rpartition("@")[2]
        self._headers = (f"Host: {host}", f"User-Agent: voting-load/{__version__}")

    def request(self, method: str, path: str, *headers: str, form: str = "") -> bytes:
        """Build a request; `headers` are whole lines."""
        if form:
            content_type = "Content-Type: application/x-www-form-urlencoded"
            headers = (*headers, content_type, f"Content-Length: {len(form)}")
        line = f"{method} {self._prefix}{path} HTTP/1.1"
        return "\r\n".join([line, *self._headers, *headers, "", form]).encode()


class Sender(asyncio.Protocol):
    """A connection that sends one request at a time and passes on the status of each response.

    It has no callback for headers and bodies, so these never become Python objects. The benchmark
    sends with it, `Connection` does all the rest.
    """

    def __init__(self, on_response: Callable[[Any, int], None]) -> None:
        self._on_response = on_response
        self._transport: asyncio.Transport | None = None

    async def connect(self, address: Address) -> None:
        """Raises OSError; a TimeoutError, which is one, after CONNECT_TIMEOUT."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().create_connection(
                lambda: self,
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=address.name if address.tls else None,
            )

    def send(self, request: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - connected
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._on_response(self, self._parser.get_status_code())


class _Receiver(Sender):
    """A connection that also has headers and body of the response."""

    def __init__(self) -> None:
        super().__init__(_Receiver._complete)
        self._received: asyncio.Future[Response] | None = None

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def request(self, request: bytes) -> asyncio.Future[Response]:
        self._response = Response()
        self._received = asyncio.get_running_loop().create_future()
        self.send(request)
        return self._received

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._complete()  # without a body, or it is cut off, or ends with the connection

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._response.headers[key] = text
        if key == "set-cookie":
            cookie, _, content = text.partition(";")[0].partition("=")
            self._response.cookies[cookie] = content

    def on_headers_complete(self) -> None:
        self._response.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._response.body += body

    def _complete(self, _: int = 0) -> None:
        if self._received is not None and not self._received.done():
            self._received.set_result(self._response)
        if not self._parser.should_keep_alive():
            self.close()


class Connection:
    """Connects when a request needs it, and again after the connection was closed.

    A context: the connection is closed with it. `timeout`: seconds from a request to its response.
    """

    def __init__(self, url: str, timeout: float = RESPONSE_TIMEOUT) -> None:
        self.url = url
        self._address = Address(url)
        self._timeout = timeout
        self._receiver = _Receiver()
        self._clock_ahead: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._receiver.close()

    @property
    def now(self) -> int | None:
        """The time by the server's responses, in milliseconds; None before they told one."""
        return None if self._clock_ahead is None else int((monotonic() + self._clock_ahead) * 1000)

    async def get(self, path: str, *headers: str) -> Response:
        """Raises NotSent, NoResponse."""
        return await self.request(self._address.request("GET", path, *headers))

    async def post(self, path: str, form: str, *headers: str) -> Response:
        """Raises NotSent, NoResponse."""
        return await self.request(self._address.request("POST", path, *headers, form=form))

    async def request(self, request: bytes) -> Response:
        """Send a request that is already built. Raises NotSent, NoResponse."""
        if not self._receiver.connected:
            self._receiver = _Receiver()  # the event loop may not be done with the last
            try:
                await self._receiver.connect(self._address)
            except OSError as error:
                reason = error.strerror or str(error) or f"no connection in {CONNECT_TIMEOUT:g} s"
                raise NotSent(reason) from error
        received = self._receiver.request(request)
        try:
            async with asyncio.timeout(self._timeout):
                response = await received
        except TimeoutError:
            raise GivenUp(f"no response in {self._timeout:g} s") from None
        finally:
            if received.cancelled():
                self._receiver.close()  # the next request must not get this one's response
        if not response.status:
            raise NoResponse("the server closed the connection")
        if clock := response.headers.get("voting-clock"):
            self._clock_ahead = int(clock) / 1000 - monotonic()
        return response
