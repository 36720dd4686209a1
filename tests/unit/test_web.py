import gzip

import httpx
import pytest
from litestar import get, post
from litestar.datastructures import Headers
from litestar.exceptions import ClientException

from voting.settings import PageSettings, ResultSettings, VoteSettings
from voting.web.exchange import Answer
from voting.web.pages import Pages, ProblemError, is_same_origin, static_url
from voting.web.texts import FULL

VOTE = {"redis_url": "redis://unused", "secret_keys": "k" * 16}
RESULT = {"database_url": "postgresql://unused"}


@get("/broken")
async def broken() -> None:
    raise RuntimeError("secret detail")


@get("/odd")
async def odd() -> None:
    raise ClientException("secret detail")


async def short(request):
    """Go past Litestar."""
    match await request.body(10):
        case b"broken":
            raise RuntimeError("secret detail")
        case b"full":
            raise ProblemError(FULL)
    return Answer("short", headers={})


@post("/short")
async def long() -> str:
    return "long"


@pytest.fixture
async def client():
    pages = Pages(PageSettings(poll_title="<b>Tabs</b> or spaces?"))
    app = pages.create_app([broken, odd, long], straight={"/short": short})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_short_way_is_for_its_method_and_path_alone(client):
    assert (await client.post("/short")).text == "short"
    assert (await client.post("/short/")).text == "long"
    assert (await client.get("/short")).status_code == 405


@pytest.mark.parametrize(("body", "status"), [("broken", 500), ("full", 503)])
async def test_an_error_on_the_short_way_is_a_page_as_any_other(client, caplog, body, status):
    answer = await client.post("/short", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "content-security-policy" in answer.headers
    assert "secret detail" not in answer.text
    assert ("secret detail" in caplog.text) is (status == 500)


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        # What the browser says of itself outweighs the rest.
        ({"sec-fetch-site": "cross-site", "origin": "http://me", "host": "me"}, False),
        ({"origin": "http://me:8080", "host": "me:8080"}, True),
        ({"origin": "http://me:8080", "host": "me"}, False),
        ({"origin": "http://evil", "host": "me"}, False),
        ({"origin": "null", "host": "me"}, False),
        ({"origin": "", "host": "me"}, False),
        ({"origin": "http://[", "host": "me"}, False),
        ({"origin": "file://me", "host": "me"}, False),
    ],
)
def test_only_this_sites_own_page_may_change_something(headers, same):
    assert is_same_origin(Headers(headers)) is same


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/broken", 405),
        ("GET", "/broken", 500),
        ("GET", "/odd", 400),
    ],
)
async def test_an_error_is_a_page_in_plain_words_with_every_header(client, method, path, status):
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'role="alert"' in answer.text
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("page", "secure"),
    [
        (VoteSettings(**VOTE, vote_url="https://vote.example.com"), True),
        (VoteSettings(**VOTE, vote_url="http://vote.localhost"), False),
        # Another host, which may be without TLS.
        (VoteSettings(**VOTE, result_url="https://result.example.com"), False),
        (ResultSettings(**RESULT, result_url="https://result.example.com"), True),
        (ResultSettings(**RESULT, vote_url="https://vote.example.com"), False),
        (ResultSettings(**RESULT), False),
    ],
)
async def test_who_came_over_tls_has_to_come_over_tls_again(page, secure):
    transport = httpx.ASGITransport(Pages(page).create_app([]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = (await client.get("/nope")).headers
    assert headers.get("strict-transport-security") == ("max-age=31536000" if secure else None)


async def test_every_answer_has_these_headers(client):
    for path in ("/nope", "/broken", static_url("style.css")):
        headers = (await client.get(path)).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        features = headers["permissions-policy"].split(", ")
        assert {"camera=()", "geolocation=()", "microphone=()", "payment=()"} < set(features)
        assert all(each.endswith("=()") for each in features)


async def test_a_method_that_there_is_not_is_told_which_there_are(client):
    answer = await client.post("/broken")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_head_is_get(client):
    path = static_url("style.css")
    head, page = await client.head(path), await client.get(path)
    assert (head.status_code, head.headers) == (page.status_code, page.headers)


async def test_the_title_is_text_not_markup(client):
    assert "&lt;b&gt;Tabs&lt;/b&gt; or spaces?" in (await client.get("/nope")).text


async def test_a_static_file_is_kept_for_ever_by_its_digest(client):
    answer = await client.get(static_url("style.css"))
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]


async def test_a_static_file_of_another_version_is_served_but_not_kept(client):
    answer = await client.get("/static/0123456789ab/style.css")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["nope.css", "..%2f__init__.py", "%2e%2e"])
async def test_there_are_no_other_files(client, name):
    assert (await client.get(f"/static/0123456789ab/{name}")).status_code == 404


async def test_static_files_travel_compressed_where_the_client_can(client):
    plain = await client.get(
        static_url("htmx-4.0.1.min.js"), headers={"accept-encoding": "identity"}
    )
    zipped = await client.get(static_url("htmx-4.0.1.min.js"), headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == plain.content  # httpx unzips
    assert int(zipped.headers["content-length"]) == len(gzip.compress(plain.content, mtime=0))
