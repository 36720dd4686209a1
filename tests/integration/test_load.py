"""The client of the load generator, against a server that responds in every way."""

import asyncio
import json
import re
import socket
import ssl
from contextlib import asynccontextmanager, closing, nullcontext, suppress

import pytest
import trustme

from voting.load.check import Verdict
from voting.load.client import Connection, NoResponse, NotSent
from voting.load.command import _once_ready
from voting.load.pages import (
    Form,
    PageError,
    PageUnavailable,
    Voter,
    fetch_totals,
    new_voter,
    vote,
)
from voting.load.record import Acknowledgement, Totals
from voting.poll.ballot import Choice
from voting.settings import LoadSettings, load_settings

VOTER = f"voter={'0' * 32}.signature"
FORM = Form(7, (Choice.A, Choice.B))
ACKNOWLEDGED, REFUSED, UNKNOWN, NO_RESPONSE = Acknowledgement
CLOSE = "Connection: close"


def response(status=200, *headers, body=""):
    lines = (f"HTTP/1.1 {status} Status", *headers, f"Content-Length: {len(body)}", "", body)
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def connected(*responses, patience=30.0, tls=None):
    """Yield a connection to a server, with the `requests` that it got.

    The server sends each response once, and the last to all further requests. It closes the
    connection after one with CLOSE, and instead of None. An event delays the response until it is
    set.
    """
    requests, left = [], list(responses)

    async def serve(reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = int(request.lower().partition(b"content-length: ")[2].split(b"\r")[0] or 0)
                requests.append((request + await reader.readexactly(length)).decode())
                reply = left.pop(0) if len(left) > 1 else left[0]
                if isinstance(reply, asyncio.Event):
                    await reply.wait()
                    reply = response(500, body="late")
                writer.write(reply or b"")
                if reply is None or CLOSE.encode() in reply:
                    return

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"{'https' if tls else 'http'}://load.localhost:{server.sockets[0].getsockname()[1]}"
    async with Connection(url, patience) as page:
        page.requests = requests
        page._clock_ahead = 0.0  # or it would ask for it first
        yield page
    server.close()


# --- the client


async def test_a_response_is_read_however_it_arrives():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    until_close = f"HTTP/1.1 200 OK\r\n{CLOSE}\r\n\r\nabc".encode()
    long = response(200, "X-Name: value", body="abc" * 50_000)
    async with connected(chunked, response(304), long, until_close) as page:
        assert (await page.get("/")).body == b"abc"
        assert (await page.get("/")).status == 304
        received = await page.get("/")
        assert (received.headers["x-name"], len(received.body)) == ("value", 150_000)
        assert (await page.get("/")).body == b"abc"


async def test_the_client_connects_again_after_the_server_has_closed_the_connection():
    async with connected(response(200, CLOSE), None, response(204)) as page:
        assert (await page.get("/")).status == 200
        with pytest.raises(NoResponse, match="closed"):
            await page.get("/")
        assert (await page.get("/")).status == 204
    assert len(page.requests) == 3  # none is sent twice


async def test_a_late_response_is_not_that_of_the_next_request():
    late = asyncio.Event()
    async with connected(late, response(204), patience=0.05) as page:
        with pytest.raises(NoResponse, match=r"in 0\.05 s"):
            await page.get("/")
        late.set()
        received = await page.get("/")
    assert (received.status, received.body) == (204, b"")  # though both may come together


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 two hundred\r\n\r\n"])
async def test_what_is_not_http_is_no_response(garbage):
    async with connected(garbage) as page:
        with pytest.raises(NoResponse):
            await page.get("/")


async def test_tls_is_used_with_https_and_only_with_a_trusted_certificate(monkeypatch, tmp_path):
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("load.localhost").configure_cert(server)
    async with connected(response(204), tls=server) as page:
        with pytest.raises(NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await page.get("/")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr("voting.load.client._tls_context", ssl.create_default_context)
    async with connected(response(204), tls=server) as page:
        assert (await page.get("/")).status == 204


# --- the pages


def recorded(word):
    return f"Voting-Recorded: {word}"


@pytest.mark.parametrize(
    ("status", "headers", "acknowledgement", "version"),
    [
        (303, [recorded("yes")], ACKNOWLEDGED, None),
        (303, [recorded("yes"), "Set-Cookie: ballot=a.17-3; Path=/"], ACKNOWLEDGED, (17, 3)),
        (303, [recorded("yes"), "Set-Cookie: __Host-ballot=b.9-0; Secure"], ACKNOWLEDGED, (9, 0)),
        (303, [recorded("yes"), "Set-Cookie: ballot-8080=b.9-0"], ACKNOWLEDGED, (9, 0)),
        (503, [recorded("no")], REFUSED, None),
        (503, [recorded("unknown")], UNKNOWN, None),
        (429, ["Retry-After: 3"], REFUSED, None),
        (502, [], NO_RESPONSE, None),
        (504, [recorded("maybe")], NO_RESPONSE, None),
        (308, ["Location: /elsewhere"], NO_RESPONSE, None),
    ],
)
async def test_an_acknowledgement_is_of_the_app_and_a_refusal_may_be_of_a_proxy(
    status, headers, acknowledgement, version
):
    async with connected(response(status, *headers)) as page:
        result = await vote(page, Voter(VOTER, FORM), Choice.B)
    assert result.round == 7
    assert result[:5] == ("0" * 32, Choice.B, acknowledgement, version, status)
    [request] = page.requests  # sent once, no redirect is followed
    assert request.startswith("POST /vote HTTP/1.1\r\nHost: load.localhost:")
    assert re.search(rf"\r\nCookie: {VOTER}; unanswered=(\d+)\.\1\r\n", request)
    assert "\r\nContent-Type: application/x-www-form-urlencoded\r\n" in request
    assert request.endswith("\r\n\r\nround=7&choice=b")


NEXT = """
<form><input type="hidden" name="round" value="8"><button name="choice" value="a"></button>
<button name="choice" value="b"></button><button name="choice" value="c"></button></form>
"""


async def test_a_voter_whose_round_is_over_goes_on_with_the_question_of_the_response():
    voter = Voter(VOTER, FORM)
    refusal = response(409, recorded("no"), body=NEXT)
    accepted = response(303, recorded("yes"))
    async with connected(refusal, accepted) as page:
        first = await vote(page, voter, Choice.B)
        assert (voter.form, voter.choice) == (Form(8, (Choice.A, Choice.B, Choice.C)), None)
        second = await vote(page, voter, Choice.C)
    assert (first.acknowledgement, first.round) == (REFUSED, 7)
    assert (second.acknowledgement, second.round) == (ACKNOWLEDGED, 8)
    assert page.requests[1].endswith("\r\n\r\nround=8&choice=c")


@pytest.mark.parametrize(
    ("reply", "acknowledgement", "status"),
    [
        (None, NO_RESPONSE, 0),
        (response(303, recorded("yes"), CLOSE, body="abc")[:-1], ACKNOWLEDGED, 303),
    ],
)
async def test_headers_without_a_whole_body_count_and_no_response_does_not(
    reply, acknowledgement, status
):
    async with connected(reply) as page:
        result = await vote(page, Voter(VOTER, FORM), Choice.A)
    assert (result.acknowledgement, result.status) == (acknowledgement, status)
    assert len(page.requests) == 1


async def test_without_a_listener_a_vote_is_not_sent():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with Connection(f"http://127.0.0.1:{reserved.getsockname()[1]}") as page:
            assert (await vote(page, Voter(VOTER, FORM), Choice.A)).acknowledgement is REFUSED
            with pytest.raises(PageError, match=r"from .*/: Connect"):
                await new_voter(page)


@pytest.mark.parametrize("name", ["voter", "voter-8080", "__Host-voter", "__Host-voter-8443"])
async def test_a_new_voter_has_the_cookie_of_the_page(name):
    cookie = f"{name}={'ab' * 16}.sig-nature"
    headers = (f"Set-Cookie: {cookie}; Path=/; HttpOnly",)
    async with connected(response(200, *headers, body=NEXT), response(200, *headers)) as page:
        voter = await new_voter(page)
        with pytest.raises(PageError):  # no question
            await new_voter(page)
    assert (voter.cookie, voter.id, voter.form.round) == (cookie, "ab" * 16, 8)


@pytest.mark.parametrize("read", [new_voter, fetch_totals])
@pytest.mark.parametrize(
    ("status", "error"), [(503, PageUnavailable), (200, PageError), (308, PageError)]
)
async def test_another_page_is_an_error_and_one_that_can_not_work_now_is_unavailable(
    read, status, error
):
    async with connected(response(status, "Location: /")) as page:
        with pytest.raises(PageError, match=f"status {status}") as caught:
            await read(page)
    assert caught.type is error


def tally(*votes):
    options = [
        {"key": key, "name": "Name", "votes": each}
        for key, each in zip(Choice, votes, strict=False)
    ]
    return {"round": 4, "title": "Title", "options": options, "votes": 5}


@pytest.mark.parametrize(
    ("body", "totals"),
    [
        (tally(3, 2), Totals(4, {Choice.A: 3, Choice.B: 2}, 5)),
        (tally(0, 2, 3), Totals(4, {Choice.A: 0, Choice.B: 2, Choice.C: 3}, 5)),
        (tally(None, None), Totals(4, None, 5)),
        (tally(3, 2) | {"stale": True}, None),
        (tally(3, 2) | {"votes": None}, None),
        (tally(3, 2) | {"options": {"a": 3}}, None),
        ([], None),
    ],
)
async def test_totals_are_read_even_if_they_are_hidden_but_not_if_they_are_stale(body, totals):
    async with connected(response(body=json.dumps(body))) as page:
        with nullcontext() if totals else pytest.raises(PageError):
            assert await fetch_totals(page) == totals


async def test_the_totals_of_an_earlier_round_are_those_of_its_export():
    async with connected(response(body=json.dumps(tally(3, 2)))) as page:
        assert (await fetch_totals(page, 4)).round == 4
    assert page.requests[0].startswith("GET /export.json?round=4 HTTP/1.1\r\n")


async def test_a_load_that_waits_begins_once_each_page_is_ready():
    async def begin(_):
        return Verdict(agrees=True, line="exact: a 3, b 2")

    page = response(200, f"Set-Cookie: {VOTER}", body=NEXT)
    totals = response(body=json.dumps(tally(3, 2)))
    async with (
        connected(None, response(404), response(503), page) as vote_page,
        connected(response(503), totals) as result_page,
    ):
        urls = {"VOTE_URL": vote_page.url, "RESULT_URL": result_page.url}
        settings = load_settings(LoadSettings, urls)
        assert await _once_ready(settings, 30, begin, None) == await begin(None)
    assert (len(vote_page.requests), len(result_page.requests)) == (4, 2)
    async with connected(response(503)) as page:
        settings = load_settings(LoadSettings, {"VOTE_URL": page.url})
        with pytest.raises(PageUnavailable):
            await _once_ready(settings, 0.1, begin, None)
