"""Reading the body of a request in an `@asgi` handler.

Litestar limits bodies in HTTP handlers only (`Request.body` raises AttributeError in others), and
answers 500 if the client disconnects.
"""

from collections.abc import Mapping

from litestar.types import Receive

MAX_BODY = 4096  # bytes


class PayloadTooLarge(Exception):
    """The body is larger than MAX_BODY."""


class ClientDisconnected(Exception):
    """The client disconnected before the end of the body."""


async def read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    """Return the whole body. Raises PayloadTooLarge and ClientDisconnected."""
    # Before the first read, so that a client that expects `100 Continue` does not send the body.
    if int(headers.get("content-length", 0)) > MAX_BODY:
        raise PayloadTooLarge
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        body += message["body"]
        if len(body) > MAX_BODY:
            raise PayloadTooLarge
        if not message["more_body"]:
            return body
