"""The two cookies of the vote page: the signed voter id, and the receipt of the latest vote."""

import hashlib
import secrets
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from itsdangerous import BadSignature, Signer

from voting.poll.ballot import Choice, Version
from voting.web.headers import Header, RequestHeaders

MAX_AGE = 365 * 24 * 3600  # seconds


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


class Cookies:
    """Reads both cookies of a request, and returns the headers that set them.

    `secure`: over TLS, which binds the cookies to the host.
    """

    def __init__(self, keys: Sequence[str], *, secure: bool) -> None:
        self._voters = VoterCookies(keys)
        prefix = "__Host-" if secure else ""
        self._voter_name, self._receipt_name = f"{prefix}voter", f"{prefix}ballot"
        attributes = f"; HttpOnly; Max-Age={MAX_AGE}; Path=/; SameSite=lax"
        self._attributes = f"{attributes}; Secure" if secure else attributes

    def voter(self, headers: RequestHeaders) -> UUID | None:
        return self._voters.read(find_cookie(headers, self._voter_name))

    def receipt(self, headers: RequestHeaders) -> Receipt | None:
        return Receipt.parse(find_cookie(headers, self._receipt_name))

    def set_new_voter(self) -> Header:
        return self._set_cookie(self._voter_name, self._voters.mint())

    def set_receipt(self, receipt: Receipt) -> Header:
        return self._set_cookie(self._receipt_name, receipt)

    def _set_cookie(self, name: str, value: object) -> Header:
        return b"set-cookie", f"{name}={value}{self._attributes}".encode("ascii")


def find_cookie(headers: RequestHeaders, name: str) -> str | None:
    """Return the value of a cookie, of the last one if several have that name."""
    found = None
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = cookie.partition("=")
        if key.strip() == name:
            found = value.strip()
    return found
