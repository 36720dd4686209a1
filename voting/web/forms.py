"""The form of the vote page: its body, and the choice in it."""

from urllib.parse import parse_qsl

from litestar.types import Receive

from voting.poll.ballot import Choice
from voting.web.errors import INCOMPLETE_BODY, NOT_A_CHOICE, NOT_A_FORM, TOO_LARGE, ProblemError
from voting.web.headers import RequestHeaders

MAX_BODY = 4096  # bytes

# The bodies that the page sends, which need no parser: 4 % of the time of a vote.
_PLAIN_BODIES = {f"choice={choice}".encode(): choice for choice in Choice}


async def read_body(headers: RequestHeaders, receive: Receive) -> bytes:
    """Read the whole body in an `@asgi` handler. Raises ProblemError.

    Litestar limits bodies in HTTP handlers only (`Request.body` raises AttributeError in others),
    and answers 500 if the client disconnects.
    """
    # Before the first read, so that a client that expects `100 Continue` does not send the body.
    if int(headers.get(b"content-length", 0)) > MAX_BODY:
        raise ProblemError(TOO_LARGE)
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ProblemError(INCOMPLETE_BODY)
        body += message["body"]
        if len(body) > MAX_BODY:
            raise ProblemError(TOO_LARGE)
        if not message["more_body"]:
            return body


def read_choice(headers: RequestHeaders, body: bytes) -> Choice:
    """Parse the one field `choice` of an urlencoded form, `a` or `b`. Raises ProblemError."""
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/x-www-form-urlencoded":
        raise ProblemError(NOT_A_FORM)
    if body in _PLAIN_BODIES:
        return _PLAIN_BODIES[body]
    try:
        text = body.decode("ascii")
        fields = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=16
        )
        [value] = [value for name, value in fields if name == "choice"]
        return Choice(value)
    except ValueError as error:
        raise ProblemError(NOT_A_CHOICE) from error
