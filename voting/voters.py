"""The cookie that makes a browser one voter."""

import hashlib
import secrets
from collections.abc import Sequence
from uuid import UUID

from itsdangerous import BadSignature, Signer


class VoterCookies:
    """Mints and reads signed voter ids.

    `keys`: newest first; the newest signs, all of them verify, so that a key can be replaced while
    its cookies live on.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._signer = Signer(
            list(reversed(keys)),  # itsdangerous signs with the last
            salt="voting.voter",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    def mint(self) -> str:
        """Make the cookie of a voter who has none: 128 random bits, in hex."""
        return self._signer.sign(secrets.token_hex(16)).decode("ascii")

    def read(self, cookie: str | None) -> UUID | None:
        """Tell the voter; None for a cookie that is missing, tampered with or of another key."""
        if not cookie:
            return None
        try:
            return UUID(self._signer.unsign(cookie.encode()).decode("ascii"))
        except (BadSignature, ValueError):
            return None
