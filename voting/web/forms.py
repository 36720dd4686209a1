"""The form of the vote page: its body, and the round and the choice in it."""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from litestar.types import Receive

from voting.poll.ballot import Choice
from voting.web.errors import INCOMPLETE_BODY, NOT_A_CHOICE, NOT_A_FORM, TOO_LARGE, ProblemError
from voting.web.headers import RequestHeaders

MAX_BODY = 4096  # bytes

_ROUND = re.compile("[1-9][0-9]{0,9}")
_MAX_ROUND = 2**31 - 1  # an integer of Postgres


class VoteForm(NamedTuple):
    """What the page sends. The round may not have that choice."""

    round: int
    choice: Choice


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


def read_form(headers: RequestHeaders, body: bytes) -> VoteForm:
    """Parse an urlencoded form with one `round` and one `choice`. Raises ProblemError."""
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/x-www-form-urlencoded":
        raise ProblemError(NOT_A_FORM)
    try:
        return _parse(body)
    except ValueError as error:
        raise ProblemError(NOT_A_CHOICE) from error


@lru_cache(maxsize=128)
def _parse(body: bytes) -> VoteForm:
    """Raises ValueError."""
    text = body.decode("ascii")
    fields = parse_qsl(
        text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=16
    )
    [number] = [value for name, value in fields if name == "round"]
    [choice] = [value for name, value in fields if name == "choice"]
    if not _ROUND.fullmatch(number) or int(number) > _MAX_ROUND:
        raise ValueError("not a round")
    return VoteForm(int(number), Choice(choice))
