"""Access control of a page that listens on loopback only.

Any program on this machine reaches such a port, and so does every page that its browser shows:
under a name that a foreign site lets point here (DNS rebinding), or by a form that it sends here.
"""

import hashlib
import re
from hmac import compare_digest
from urllib.parse import parse_qsl

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from voting.web import errors
from voting.web.cookies import cookie_name, read_cookies
from voting.web.errors import ProblemError
from voting.web.headers import (
    PageResponse,
    RequestHeaders,
    is_same_origin,
    request_headers,
    see_other,
)

LOOPBACK = "127.0.0.1"

_OWN_NAMES = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class AccessControl(ASGIMiddleware):
    """Refuses requests under a foreign name, from a foreign page, and without the token.

    `GET /?token=...` puts the token into a cookie, for the port that browsers know: they send
    cookies to every port of a host. `token` is None where only those can connect who may lead a
    vote.
    """

    def __init__(self, token: str | None, port: int) -> None:
        self._cookie = cookie_name("admin", secure=False, port=port)
        # Of a length and an alphabet that suit a cookie.
        self._known = None if token is None else _digest(token)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        headers = request_headers(scope)
        if not _OWN_NAMES.fullmatch(headers.get(b"host", b"")):
            raise ProblemError(errors.FOREIGN_HOST)
        if scope.get("method") not in _SAFE_METHODS and not is_same_origin(headers, None):
            raise ProblemError(errors.FOREIGN_ORIGIN)
        if self._known is None or scope["path"].startswith("/static/"):
            await next_app(scope, receive, send)
        elif scope["path"] == "/" and compare_digest(_digest(_token(scope)), self._known):
            await self._set_cookie()(scope, receive, send)
        elif self._has_cookie(headers):
            await next_app(scope, receive, send)
        else:
            raise ProblemError(errors.NO_TOKEN)

    def _set_cookie(self) -> PageResponse:
        """Return to the page without the token in its address, which others may see."""
        # Not strict: a link of another page, such as a terminal in a browser, would get no page.
        # Forms of another site are refused anyway.
        cookie = f"{self._cookie}={self._known}; Path=/; HttpOnly; SameSite=lax"
        return see_other("/", (b"set-cookie", cookie.encode()))

    def _has_cookie(self, headers: RequestHeaders) -> bool:
        found = read_cookies(headers).get(self._cookie, ())
        return any(compare_digest(each.encode(), (self._known or "").encode()) for each in found)


def _token(scope: Scope) -> str:
    query = parse_qsl(scope["query_string"].decode("latin-1"))
    return next((value for name, value in query if name == "token"), "")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
