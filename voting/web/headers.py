"""Headers of a request and of every response, the response itself, the cross-origin check."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from litestar.types import Receive, Scope, Send

Header = tuple[bytes, bytes]
RequestHeaders = Mapping[bytes, bytes]

# On every part of a page: pace.js swaps in no response without it.
PARTIAL = (b"voting-fragment", b"1")
NO_STORE = (b"cache-control", b"no-store")

_HTML = (b"content-type", b"text/html; charset=utf-8")
_EMPTY = (b"content-length", b"0")

_UNUSED_FEATURES = (
    "accelerometer autoplay camera display-capture encrypted-media fullscreen geolocation "
    "gyroscope hid magnetometer microphone midi payment picture-in-picture "
    "publickey-credentials-get screen-wake-lock serial usb xr-spatial-tracking"
)

# Of every response; which pages may frame it is added.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'"
)

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send `Origin: null` with the form, which the cross-origin
    # check refuses. Other sites receive no referrer either way.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED_FEATURES.split()),
}


def security_headers(*, secure: bool, embed_in: Sequence[str] = ()) -> list[Header]:
    """Return the headers that every response has; `secure`: HSTS as well.

    Only pages of the origins `embed_in` may frame a response.
    """
    ancestors = " ".join(embed_in) or "'none'"
    policy = f"{_CONTENT_SECURITY_POLICY}; frame-ancestors {ancestors}"
    # One year. Without includeSubDomains: another operator may own the names below this one.
    hsts = {"Strict-Transport-Security": "max-age=31536000"} if secure else {}
    return encode_headers(_SECURITY_HEADERS | {"Content-Security-Policy": policy} | hsts)


def encode_headers(headers: Mapping[str, str]) -> list[Header]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def request_headers(scope: Scope) -> RequestHeaders:
    """Return headers by name in lower case: of several the last, Cookie headers joined.

    HTTP/2 allows a client to split its cookies, and a proxy may pass on several headers, of which
    `Request.cookies` reads the first. Litestar's `Headers` takes 5 µs more of the 87 of a vote.
    """
    raw = cast("list[Header]", scope["headers"])
    headers = dict(raw)
    if len(headers) < len(raw):
        headers[b"cookie"] = b";".join(value for name, value in raw if name == b"cookie")
    return headers


def is_same_origin(headers: RequestHeaders, own: bytes | None) -> bool:
    """Return whether a state-changing request comes from a page of this site.

    `own` is the origin of the site, if it is known: a proxy may pass on another `Host`.

    Browsers send Sec-Fetch-Site or Origin. A request with neither comes from a client that is not a
    browser, so it cannot abuse a voter's cookie.
    Source: https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
    """
    if site := headers.get(b"sec-fetch-site"):
        return site in {b"same-origin", b"none"}
    origin = headers.get(b"origin")
    if origin is None or origin == own:
        return True
    scheme, _, host = origin.partition(b"://")
    return scheme in {b"http", b"https"} and host == headers.get(b"host")


def is_htmx(headers: RequestHeaders) -> bool:
    """Return whether htmx sent the request, which swaps in a part of the page."""
    return headers.get(b"hx-request") == b"true"


@dataclass(slots=True)
class PageResponse:
    """A whole response, as an ASGI application that a handler can return.

    Its headers are encoded already, which Litestar's own responses do for each.
    """

    status: int
    headers: list[Header]
    body: bytes = b""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def html_response(body: str, headers: Iterable[Header], *, status: int = 200) -> PageResponse:
    content = body.encode()
    length = (b"content-length", b"%d" % len(content))
    return PageResponse(status, [_HTML, length, *headers], content)


def see_other(location: str, *headers: Header) -> PageResponse:
    """Return a redirect to a page, which no cache stores."""
    return PageResponse(303, [(b"location", location.encode()), _EMPTY, NO_STORE, *headers])


def make_etag(body: str) -> bytes:
    """Return the ETag of a body: 80 bits of its SHA-256."""
    return b'"%b"' % hashlib.sha256(body.encode()).hexdigest()[:20].encode()


def conditional_response(
    request: RequestHeaders, body: str, headers: Iterable[Header], *, etag: bytes
) -> PageResponse:
    """Return the page, or 304 without a body if the client already has the one with this ETag."""
    headers = [*headers, (b"etag", etag)]
    if etag not in request.get(b"if-none-match", b""):
        return html_response(body, headers)
    return PageResponse(304, headers)
