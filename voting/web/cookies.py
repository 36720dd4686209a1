"""The cookies of the vote page.

The signed voter id, the receipt of the latest recorded vote, and votes without an answer.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from voting.poll.ballot import Choice, Version
from voting.web.headers import Header, RequestHeaders

MAX_AGE = 365 * 24 * 3600  # seconds

_UNANSWERED = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?")


Jar = Mapping[str, Sequence[str]]
"""The values of each cookie of a request. Another site may set one too, for a parent domain."""


def read_cookies(headers: RequestHeaders) -> Jar:
    jar: dict[str, list[str]] = {}
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = cookie.partition("=")
        jar.setdefault(key.strip(), []).append(value.strip())
    return jar


class VoterCookies:
    """Creates and verifies signed voter ids, each for one poll: the identity of its database.

    `keys`: newest first. The newest signs and all of them verify, so that a key can be replaced
    while cookies that it signed are in use.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._derived = lru_cache(maxsize=1)(self._derive)

    def mint(self, poll: str) -> str:
        """Return the cookie of a new voter: 128 random bits in hex, and their signature."""
        voter = secrets.token_hex(16)
        return f"{voter}.{self.sign(voter, poll)}"

    def sign(self, voter: str, poll: str) -> str:
        return _sign(self._derived(poll)[0], voter)

    def read(self, cookie: str, poll: str) -> UUID | None:
        """Return the voter, or None if the cookie is tampered with, of another key or poll."""
        voter, _, signature = cookie.partition(".")
        try:
            for key in self._derived(poll):
                if hmac.compare_digest(signature, _sign(key, voter)):
                    return UUID(voter)
        except (TypeError, ValueError):  # not ASCII, not a voter
            return None
        return None

    def _derive(self, poll: str) -> list[bytes]:
        """Return a key for each key, with which nothing but voters of this poll is signed."""
        salt = f"voting.voter.{poll}".encode()
        return [hmac.digest(key.encode(), salt, "sha256") for key in self._keys]


def _sign(key: bytes, voter: str) -> str:
    """Return what `itsdangerous.Signer` does, in two thirds of its time."""
    return urlsafe_b64encode(hmac.digest(key, voter.encode(), "sha256")).decode().rstrip("=")


class Receipt(NamedTuple):
    """The latest vote of a browser: the value of its receipt cookie.

    The cookie is not signed: the server shows it to the browser that sent it, and decides nothing
    by it. It is believed only beside the cookie of a voter, and deleted when that is replaced.
    """

    choice: Choice
    version: Version

    @classmethod
    def parse(cls, cookie: str) -> "Receipt | None":
        choice, _, version = cookie.partition(".")
        try:
            return cls(Choice(choice), Version.parse(version))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.choice}.{self.version}"


class Unanswered(NamedTuple):
    """The votes of a browser whose outcome it does not know: the value of a cookie.

    vote.js sets it before it sends a vote. Times are in milliseconds of Redis' clock.
    """

    first: int
    """When the first of them was sent."""
    sent: int | None
    """When the vote of this request was sent; None without JavaScript."""

    @classmethod
    def parse(cls, cookie: str) -> "Unanswered | None":
        match = _UNANSWERED.fullmatch(cookie)
        return match and cls(int(match[1]), int(match[2]) if match[2] else None)

    @property
    def earlier(self) -> bool:
        """Whether there is one before the vote of this request."""
        return self.first != self.sent


class Cookies:
    """Reads the cookies of a request, and returns the headers that set them.

    `secure`: over TLS, which binds the cookies to the host. `port`: that of the page's address,
    since browsers send a cookie to every port of a host, and another poll may be there.
    """

    def __init__(self, keys: Sequence[str], *, secure: bool, port: int) -> None:
        self._voters = VoterCookies(keys)
        self._voter_name = cookie_name("voter", secure=secure, port=port)
        self._receipt_name = cookie_name("ballot", secure=secure, port=port)
        self.unanswered_name = cookie_name("unanswered", secure=secure, port=port)
        self._attributes = "; Path=/; SameSite=lax" + ("; Secure" if secure else "")

    def voter(self, jar: Jar, poll: str) -> UUID | None:
        for cookie in jar.get(self._voter_name, ()):
            if (voter := self._voters.read(cookie, poll)) is not None:
                return voter
        return None

    def has_voter(self, jar: Jar) -> bool:
        """Whether the browser has a cookie of a voter, maybe of another poll or key."""
        return self._voter_name in jar

    def receipt(self, jar: Jar) -> Receipt | None:
        receipts = map(Receipt.parse, jar.get(self._receipt_name, ()))
        return next(filter(None, receipts), None)

    def unanswered(self, jar: Jar) -> Unanswered | None:
        found = map(Unanswered.parse, jar.get(self.unanswered_name, ()))
        return next(filter(None, found), None)

    def set_new_voter(self, jar: Jar, poll: str) -> list[Header]:
        """Return headers that also delete what the browser has of an earlier voter."""
        earlier = jar.keys() & {self._receipt_name, self.unanswered_name}
        deleted = [self._set_cookie(name, "", max_age=0) for name in sorted(earlier)]
        cookie = f"{self._voters.mint(poll)}; HttpOnly"
        return [self._set_cookie(self._voter_name, cookie), *deleted]

    def set_receipt(self, receipt: Receipt) -> Header:
        return self._set_cookie(self._receipt_name, f"{receipt}; HttpOnly")

    def set_unanswered(self, first: int) -> Header:
        return self._set_cookie(self.unanswered_name, first)

    def delete_unanswered(self) -> Header:
        return self._set_cookie(self.unanswered_name, "", max_age=0)

    def _set_cookie(self, name: str, value: object, max_age: int = MAX_AGE) -> Header:
        cookie = f"{name}={value}; Max-Age={max_age}{self._attributes}"
        return b"set-cookie", cookie.encode("ascii")


def cookie_name(name: str, *, secure: bool, port: int) -> str:
    suffix = "" if port in {80, 443} else f"-{port}"
    return f"{'__Host-' if secure else ''}{name}{suffix}"
