"""A request and its answer over HTTP, with no more than the app needs of them.

With these, and past Litestar's routing, a vote takes 77 µs of a processor instead of 156.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast

from litestar.types import HTTPScope, Receive, Scope, Send

HTML = "text/html; charset=utf-8"


class TooLarge(Exception):
    """The body has more bytes than it may."""


class BrokenOff(Exception):
    """The client left before it had sent all."""


class Asked:
    """A request: headers by their names in lower case, the last where one comes twice."""

    __slots__ = ("_receive", "headers", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        raw = cast("list[tuple[bytes, bytes]]", scope["headers"])
        self.scope = cast("HTTPScope", scope)
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        if len(self.headers) < len(raw):  # a proxy may have split the cookies
            cookies = (value.decode("latin-1") for name, value in raw if name == b"cookie")
            self.headers["cookie"] = "; ".join(cookies)
        self._receive = receive

    @property
    def method(self) -> str:
        return self.scope["method"]

    def cookie(self, name: str) -> str | None:
        """Find a cookie, the last where several have that name."""
        found = None
        for each in self.headers.get("cookie", "").split(";"):
            key, _, value = each.partition("=")
            if key.strip() == name:
                found = value.strip()
        return found

    async def body(self, most: int) -> bytes:
        """Read a body of so many bytes at most. Raises TooLarge and BrokenOff."""
        # Before it comes, where the client tells: who waits for leave to send it gets none.
        if int(self.headers.get("content-length", 0)) > most:
            raise TooLarge
        body = b""
        while True:
            message: Any = await self._receive()
            if message["type"] == "http.disconnect":
                raise BrokenOff
            part: bytes = message["body"]
            body += part
            if len(body) > most:
                raise TooLarge
            if not message["more_body"]:
                return body


class Answer:
    """An answer, as Litestar takes it from a handler: an ASGI application."""

    __slots__ = ("_cookies", "_media_type", "content", "headers", "status")

    def __init__(
        self,
        content: str = "",
        *,
        status: int = HTTPStatus.OK,
        headers: Mapping[str, str],
        cookies: Iterable[str] = (),
        media_type: str = HTML,
    ) -> None:
        self.content = content
        self.status = status
        self.headers = headers
        self._cookies = cookies
        self._media_type = media_type

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        body = self.content.encode()
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers.items()
        ]
        headers += [(b"set-cookie", each.encode("latin-1")) for each in self._cookies]
        if body:
            headers.append((b"content-type", self._media_type.encode("latin-1")))
        if self.status != HTTPStatus.NOT_MODIFIED:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
