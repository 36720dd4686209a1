import gzip

import pytest
from litestar import asgi, get, post
from litestar.exceptions import ClientException
from litestar.params import RawBody
from litestar.types import Receive, Scope, Send
from support.asgi import client_of

from voting.settings import PageSettings, ResultSettings, VoteSettings
from voting.web.errors import FULL, ProblemError
from voting.web.forms import MAX_BODY
from voting.web.headers import conditional_response, html_response, is_same_origin, make_etag
from voting.web.pages import Pages
from voting.web.server import head_as_get
from voting.web.static_files import static_url

VOTE = {"redis_url": "redis://unused", "secret_keys": "k" * 16}
RESULT = {"database_url": "postgresql://unused"}


@get("/broken")
async def broken() -> None:
    raise RuntimeError("secret detail")


@get("/invalid")
async def invalid() -> None:
    raise ClientException("secret detail")


@get("/full")
async def full() -> None:
    raise ProblemError(FULL)


@post("/body")
async def size(body: RawBody) -> str:
    return str(len(body))


@asgi("/asgi", copy_scope=False)
async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["query_string"] == b"broken":
        raise RuntimeError("secret detail")
    if scope["query_string"] == b"full":
        raise ProblemError(FULL)
    await html_response("raw", [])(scope, receive, send)


@pytest.fixture
async def client():
    pages = Pages(PageSettings())
    app = head_as_get(pages.create_app([broken, invalid, full, size, raw]))
    async with client_of(app) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        # Sec-Fetch-Site, which the browser sets, takes precedence.
        ({"sec-fetch-site": "cross-site", "origin": "http://me", "host": "me"}, False),
        ({"origin": "http://me:8080", "host": "me:8080"}, True),
        ({"origin": "http://me:8080", "host": "me"}, False),
        ({"origin": "http://evil", "host": "me"}, False),
        ({"origin": "null", "host": "me"}, False),
        ({"origin": "", "host": "me"}, False),
        ({"origin": "http://[", "host": "me"}, False),
        ({"origin": "file://me", "host": "me"}, False),
        # A proxy passes on another host.
        ({"origin": "https://vote.example.com", "host": "10.0.0.7:8080"}, True),
        ({"origin": "http://vote.example.com", "host": "10.0.0.7:8080"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://vote.example.com"}, False),
    ],
)
def test_a_cross_origin_request_is_recognized(headers, same):
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    assert is_same_origin(encoded, b"https://vote.example.com") is same
    if "vote.example.com" not in headers.get("origin", ""):
        assert is_same_origin(encoded, None) is same


ERRORS = [
    ("GET", "/nope", 404),
    ("POST", "/broken", 405),
    ("POST", "/body", 413),
    ("GET", "/broken", 500),
    ("GET", "/invalid", 400),
    ("GET", "/full", 503),
    ("GET", "/asgi?broken", 500),
    ("GET", "/asgi?full", 503),
]


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
async def test_an_error_is_a_page_without_internal_details(client, caplog, method, path, status):
    answer = await client.request(method, path, content=b"a" * (MAX_BODY + 1))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("retry-after") == ("30" if status == 503 else None)
    assert 'role="alert"' in answer.text
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert "server" not in answer.headers
    assert ("secret detail" in caplog.text) is (status == 500)


@pytest.mark.parametrize(
    ("page", "secure"),
    [
        (VoteSettings(**VOTE, vote_url="https://vote.example.com"), True),
        (VoteSettings(**VOTE, vote_url="http://vote.localhost"), False),
        # Another host, which may have no TLS.
        (VoteSettings(**VOTE, result_url="https://result.example.com"), False),
        (ResultSettings(**RESULT, result_url="https://result.example.com"), True),
        (ResultSettings(**RESULT, vote_url="https://vote.example.com"), False),
        (ResultSettings(**RESULT), False),
    ],
)
async def test_hsts_is_sent_if_the_page_has_an_https_address(page, secure):
    async with client_of(Pages(page).create_app([])) as client:
        headers = (await client.get("/nope")).headers
    assert headers.get("strict-transport-security") == ("max-age=31536000" if secure else None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [*ERRORS, ("GET", "/asgi", 200), ("GET", static_url("style.css"), 200)],
)
async def test_every_response_has_the_security_headers(client, method, path, status):
    answer = await client.request(method, path, content=b"a" * (MAX_BODY + 1))
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    features = answer.headers["permissions-policy"].split(", ")
    assert {"camera=()", "geolocation=()", "microphone=()", "payment=()"} < set(features)
    assert all(each.endswith("=()") for each in features)


async def test_a_405_response_lists_the_allowed_methods(client):
    answer = await client.post("/broken")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_head_is_get(client):
    path = static_url("style.css")
    head, page = await client.head(path), await client.get(path)
    assert (head.status_code, head.headers) == (page.status_code, page.headers)


def test_a_response_has_its_headers_its_cookies_and_its_length():
    answer = html_response(
        "\u00e9", [(b"etag", b'"1"'), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], status=404
    )
    assert (answer.status, answer.body) == (404, b"\xc3\xa9")
    assert sorted(answer.headers) == [
        (b"content-length", b"2"),
        (b"content-type", b"text/html; charset=utf-8"),
        (b"etag", b'"1"'),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]


def test_an_unchanged_response_has_no_body_and_no_length():
    """Its length would be that of the body which it does not have.

    Source: RFC 9110, section 8.6.
    """
    etag = make_etag("page")
    known = {b"": 200, etag: 304, b'W/"1", ' + etag: 304, make_etag("b"): 200}
    for each, status in known.items():
        answer = conditional_response(
            {b"if-none-match": each}, "page", [(b"vary", b"cookie")], etag=etag
        )
        headers = dict(answer.headers)
        assert answer.status == status
        assert answer.body == (b"page" if status == 200 else b"")
        assert (headers[b"etag"], headers[b"vary"]) == (etag, b"cookie")
        assert (b"content-length" in headers) is (status == 200)


async def test_a_static_file_is_cacheable_for_a_year_under_its_digest(client):
    answer = await client.get(static_url("style.css"))
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_a_static_file_is_served_but_not_stored_under_another_digest(client):
    answer = await client.get("/static/0123456789ab/style.css")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["nope.css", "..%2f__init__.py", "%2e%2e"])
async def test_only_static_files_are_served(client, name):
    assert (await client.get(f"/static/0123456789ab/{name}")).status_code == 404


async def test_a_static_file_is_compressed_if_the_client_accepts_gzip(client):
    plain = await client.get(
        static_url("htmx-4.0.1.min.js"), headers={"accept-encoding": "identity"}
    )
    zipped = await client.get(static_url("htmx-4.0.1.min.js"), headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == plain.content  # httpx decompresses
    assert int(zipped.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
