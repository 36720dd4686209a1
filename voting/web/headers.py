"""Security headers of every response, the cross-origin check, and conditional requests."""

import hashlib
from collections.abc import Iterable, Mapping

from litestar.response.base import ASGIResponse
from litestar.types import BeforeMessageSendHookHandler, Message, Scope

# On every part of a page: pace.js swaps in no response without it.
PARTIAL_HEADER = {"Voting-Fragment": "1"}

_UNUSED_FEATURES = (
    "accelerometer autoplay camera display-capture encrypted-media fullscreen geolocation "
    "gyroscope hid magnetometer microphone midi payment picture-in-picture "
    "publickey-credentials-get screen-wake-lock serial usb xr-spatial-tracking"
)

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send `Origin: null` with the form, which the cross-origin
    # check refuses. Other sites receive no referrer either way.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED_FEATURES.split()),
}


def security_headers(*, secure: bool) -> BeforeMessageSendHookHandler:
    """Return a `before_send` hook that adds the security headers; `secure`: HSTS as well.

    A middleware or `after_request` would miss 404 and 405, which Litestar's router answers.
    """
    # One year. Without includeSubDomains: another operator may own the names below this one.
    hsts = {"Strict-Transport-Security": "max-age=31536000"} if secure else {}
    headers = _SECURITY_HEADERS | hsts
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def add_security_headers(message: Message, _: Scope) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *encoded]

    return add_security_headers


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a state-changing request comes from a page of this site.

    Browsers send Sec-Fetch-Site or Origin. A request with neither comes from a client that is not a
    browser, so it cannot abuse a voter's cookie.
    Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
    """
    if site := headers.get("sec-fetch-site"):
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    return scheme in {"http", "https"} and host == headers.get("host")


def is_htmx(headers: Mapping[str, str]) -> bool:
    """Return whether htmx sent the request, which swaps in a part of the page."""
    return headers.get("hx-request") == "true"


def html_response(
    body: str,
    *,
    status: int = 200,
    headers: Mapping[str, str],
    set_cookies: Iterable[str] = (),
) -> ASGIResponse:
    """Return a page. `set_cookies` are values of Set-Cookie, already formatted."""
    content = body.encode()
    # First, as `ASGIResponse` looks for these two and decodes each header before them: 5 µs.
    entity = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(content)))]
    cookies = [("Set-Cookie", cookie) for cookie in set_cookies]
    fields = [*entity, *headers.items(), *cookies]
    return ASGIResponse(body=content, status_code=status, headers=fields)


def make_etag(body: str) -> str:
    """Return the ETag of a body: 80 bits of its SHA-256."""
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:20]}"'


def conditional_response(
    request_headers: Mapping[str, str], body: str, *, etag: str, headers: Mapping[str, str]
) -> ASGIResponse:
    """Return the page, or 304 without a body if the client already has the one with this ETag."""
    headers = {**headers, "ETag": etag}
    if etag in request_headers.get("if-none-match", ""):
        return ASGIResponse(status_code=304, headers=headers)
    return html_response(body, headers=headers)
