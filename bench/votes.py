"""Prebuilt requests, with the headers that browsers send."""

from collections.abc import Iterator
from itertools import cycle

from bench.bare import POLL
from bench.stack import KEY
from voting.web.cookies import VoterCookies

VOTERS = 200_000

_HEAD = (
    "Host: localhost",
    "User-Agent: Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/146.0 Safari/537.36",
    "Accept: text/html",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
)

_FORM = ("Content-Type: application/x-www-form-urlencoded", "Origin: http://localhost")

HTMX = ("HX-Request: true",)


def vote_requests(
    *headers: str, path: str = "/vote", form: str = "round=1&choice=", number: int = VOTERS
) -> Iterator[bytes]:
    """Yield votes without end, of each of `number` voters in turn."""
    cookies = VoterCookies([KEY])
    head = "\r\n".join((f"POST {path} HTTP/1.1", *_HEAD, *_FORM, *headers))
    bodies = [f"{form}{choice}" for choice in "ab"]
    ends = [f"Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies]
    return cycle(
        [
            f"{head}\r\nCookie: voter={cookies.mint(POLL)}\r\n{ends[index % 2]}".encode()
            for index in range(number)
        ]
    )


def counted_voter() -> str:
    """Return the cookies of a new voter, as if the vote were counted."""
    return f"voter={VoterCookies([KEY]).mint(POLL)}; ballot=a.1-0"


def page_requests(path: str, *headers: str) -> Iterator[bytes]:
    """Yield requests for a page, of a voter whose vote is counted."""
    lines = (f"GET {path} HTTP/1.1", *_HEAD, *headers, f"Cookie: {counted_voter()}", "", "")
    return cycle(["\r\n".join(lines).encode()])
