"""The cookies of the vote page.

The signed voter id, the receipt of the latest recorded vote, and votes without an answer.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from itsdangerous import BadSignature, Signer

from voting.poll.ballot import Choice, Version
from voting.web.headers import Header, RequestHeaders

MAX_AGE = 365 * 24 * 3600  # seconds

_UNANSWERED = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?")


class VoterCookies:
    """Creates and verifies signed voter ids.

    `keys`: newest first. The newest signs and all of them verify, so that a key can be replaced
    while cookies that it signed are in use.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        signer = partial(Signer, digest_method=hashlib.sha256)
        # Derived here once, as `Signer` derives keys for each cookie: 4.0 µs instead of 6.4, of the
        # 70 of a vote. Reversed, as it signs with the last.
        derive = partial(signer, salt="voting.voter", key_derivation="hmac")
        derived = [derive(key).derive_key() for key in reversed(keys)]
        self._signer = signer(derived, key_derivation="none")

    def mint(self) -> str:
        """Return the cookie of a new voter: 128 random bits in hex, and their signature."""
        return self._signer.sign(secrets.token_hex(16)).decode("ascii")

    def read(self, cookie: str | None) -> UUID | None:
        """Return the voter, or None if the cookie is missing, tampered with or of another key."""
        if not cookie:
            return None
        try:
            return UUID(self._signer.unsign(cookie).decode("ascii"))
        except (BadSignature, ValueError):
            return None


class Receipt(NamedTuple):
    """The latest vote of a browser: the value of its receipt cookie.

    The cookie is not signed: the server shows it to the browser that sent it, and decides nothing
    by it.
    """

    choice: Choice
    version: Version

    @classmethod
    def parse(cls, cookie: str | None) -> "Receipt | None":
        choice, _, version = (cookie or "").partition(".")
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
    def parse(cls, cookie: str | None) -> "Unanswered | None":
        match = _UNANSWERED.fullmatch(cookie or "")
        return match and cls(int(match[1]), int(match[2]) if match[2] else None)

    @property
    def earlier(self) -> bool:
        """Whether there is one before the vote of this request."""
        return self.first != self.sent


class Cookies:
    """Reads the cookies of a request, and returns the headers that set them.

    `secure`: over TLS, which binds the cookies to the host.
    """

    def __init__(self, keys: Sequence[str], *, secure: bool) -> None:
        self._voters = VoterCookies(keys)
        prefix = "__Host-" if secure else ""
        self._voter_name, self._receipt_name = f"{prefix}voter", f"{prefix}ballot"
        self.unanswered_name = f"{prefix}unanswered"
        self._attributes = "; Path=/; SameSite=lax" + ("; Secure" if secure else "")

    def voter(self, headers: RequestHeaders) -> UUID | None:
        return self._voters.read(find_cookie(headers, self._voter_name))

    def receipt(self, headers: RequestHeaders) -> Receipt | None:
        return Receipt.parse(find_cookie(headers, self._receipt_name))

    def unanswered(self, headers: RequestHeaders) -> Unanswered | None:
        return Unanswered.parse(find_cookie(headers, self.unanswered_name))

    def set_new_voter(self) -> Header:
        return self._set_cookie(self._voter_name, f"{self._voters.mint()}; HttpOnly")

    def set_receipt(self, receipt: Receipt) -> Header:
        return self._set_cookie(self._receipt_name, f"{receipt}; HttpOnly")

    def set_unanswered(self, first: int) -> Header:
        return self._set_cookie(self.unanswered_name, first)

    def delete_unanswered(self) -> Header:
        return self._set_cookie(self.unanswered_name, "", max_age=0)

    def _set_cookie(self, name: str, value: object, max_age: int = MAX_AGE) -> Header:
        cookie = f"{name}={value}; Max-Age={max_age}{self._attributes}"
        return b"set-cookie", cookie.encode("ascii")


def find_cookie(headers: RequestHeaders, name: str) -> str | None:
    """Return the value of a cookie, of the last one if several have that name."""
    found = None
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = cookie.partition("=")
        if key.strip() == name:
            found = value.strip()
    return found
