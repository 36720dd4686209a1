import hashlib

import pytest
from litestar import get, post
from support.asgi import client_of

from voting.settings import PageSettings
from voting.web.access_control import AccessControl
from voting.web.pages import Pages
from voting.web.static_files import static_url

TOKEN = "0123456789abcdef"


@get("/")
async def read() -> str:
    return "page"


@post("/")
async def write() -> str:
    return "changed"


def visitor(token=TOKEN, port=8082, base_url="http://localhost:8082"):
    app = Pages(PageSettings()).create_app([read, write], middleware=[AccessControl(token, port)])
    return client_of(app, base_url)


@pytest.fixture
async def admitted():
    """A client that has the token's cookie."""
    async with visitor() as client:
        await client.get("/", params={"token": TOKEN})
        yield client


async def test_the_token_becomes_a_cookie_and_leaves_the_address():
    async with visitor() as client:
        response = await client.get("/", params={"token": TOKEN})
        assert (response.status_code, response.headers["location"]) == (303, "/")
        assert response.headers["cache-control"] == "no-store"
        name, _, attributes = response.headers["set-cookie"].partition("=")
        assert name == "admin-8082"
        assert attributes.partition("; ")[2] == "Path=/; HttpOnly; SameSite=lax"
        assert TOKEN not in response.headers["set-cookie"]
        assert (await client.get("/")).text == "page"


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={TOKEN}0", "?tok=1"])
async def test_without_the_token_there_is_no_page(query):
    async with visitor() as client:
        for method, path in (("GET", "/"), ("POST", "/"), ("GET", static_url("style.css"))):
            response = await client.request(method, path + query)
            assert response.status_code == (200 if "static" in path else 403)
        assert "voting up" in (await client.get(f"/{query}")).text
        assert "set-cookie" not in response.headers


async def test_a_cookie_is_for_one_port(admitted):
    async with visitor(port=8092, base_url="http://localhost:8092") as other:
        other.cookies = admitted.cookies
        assert (await other.get("/")).status_code == 403


OLD = hashlib.sha256(b"the-secret-of-an-earlier-start").hexdigest()


@pytest.mark.parametrize("value", ["", "0", TOKEN, "ä", OLD])
async def test_the_cookie_of_an_old_token_is_refused(value):
    async with visitor() as client:
        headers = {"cookie": f"admin-8082={value}".encode()}
        assert (await client.get("/", headers=headers)).status_code == 403


async def test_without_a_token_every_client_on_loopback_is_served():
    async with visitor(token=None) as client:
        assert (await client.get("/")).text == "page"
        assert (await client.post("/")).text == "changed"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8082", "LOCALHOST:1", "127.0.0.1:8082", "[::1]:8082"]
)
async def test_a_loopback_name_is_served(admitted, host):
    assert (await admitted.get("/", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "localhost.evil.example:8082",
            "evil-localhost",
            "127.0.0.1.evil.example",
        ),
        *("10.0.0.7:8082", "0.0.0.0:8082", "127.0.0.2", "[::]:8082", "localhost:", "localhost:80x"),
        "",
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
async def test_another_name_is_refused_whatever_the_client_has(admitted, host, token):
    """Such as that of a site which lets it point here: DNS rebinding."""
    async with visitor(token) as client:
        client.cookies = admitted.cookies
        for method in ("GET", "POST"):
            response = await client.request(method, f"/?token={TOKEN}", headers={"host": host})
            assert response.status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_form_of_another_site_is_refused(admitted, headers):
    assert (await admitted.post("/", headers=headers)).status_code == 403
    own = {"origin": "http://localhost:8082", "sec-fetch-site": "same-origin"}
    assert (await admitted.post("/", headers=own)).text == "changed"
