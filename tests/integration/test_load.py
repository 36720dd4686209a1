"""The load generator, its client and its check, against servers that respond in every way."""

import asyncio
import json
import socket
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme
from support.wait import until

from voting.load import pages
from voting.load.check import Expected, check, wait_until_stable
from voting.load.client import Connection, NoResponse, NotSent
from voting.load.generator import LoadGenerator
from voting.load.pages import PageError, PageUnavailable, Voter, fetch_totals, new_voter
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice

VOTER = Voter(f"voter={'0' * 32}.signature")
ACKNOWLEDGED, REFUSED, UNKNOWN, NO_RESPONSE = Acknowledgement
NOTHING = Totals(0, 0, 0)
CLOSE = "Connection: close"


def response(status=200, *headers, body=""):
    lines = (f"HTTP/1.1 {status} Status", *headers, f"Content-Length: {len(body)}", "", body)
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def served(*responses, tls=None):
    """Run a server, and yield its URL and the requests that it got.

    It sends each response once, and the last to all further requests: bytes, or a coroutine
    function that makes them. It closes the connection after one with CLOSE, and instead of None.
    """
    requests, left = [], list(responses)

    async def serve(reader, writer):
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = int(request.lower().partition(b"content-length: ")[2].split(b"\r")[0] or 0)
                requests.append((request + await reader.readexactly(length)).decode())
                reply = left.pop(0) if len(left) > 1 else left[0]
                reply = await reply(requests[-1]) if callable(reply) else reply
                if reply is None:
                    return
                writer.write(reply)
                if CLOSE.encode() in reply:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://load.localhost:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()


@asynccontextmanager
async def connected(*responses, patience=30.0, tls=None):
    async with served(*responses, tls=tls) as (url, requests), Connection(url, patience) as page:
        page.requests = requests
        yield page


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

    async def respond_late(_):
        await late.wait()
        return response(500)

    async with connected(respond_late, response(204), patience=0.05) as page:
        with pytest.raises(NoResponse, match=r"in 0\.05 s"):
            await page.get("/")
        late.set()
        assert (await page.get("/")).status == 204


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
        (409, [recorded("no")], REFUSED, None),
        (503, [recorded("no")], REFUSED, None),
        (503, [recorded("unknown")], UNKNOWN, None),
        (429, ["Retry-After: 3"], REFUSED, None),
        (413, [], REFUSED, None),
        (502, [], NO_RESPONSE, None),
        (504, [recorded("maybe")], NO_RESPONSE, None),
        (200, [], NO_RESPONSE, None),
        (308, ["Location: /elsewhere"], NO_RESPONSE, None),
    ],
)
async def test_an_acknowledgement_is_of_the_app_and_a_refusal_may_be_of_a_proxy(
    status, headers, acknowledgement, version
):
    async with connected(response(status, *headers)) as page:
        result = await pages.vote(page, VOTER, Choice.B)
    assert result[:5] == (VOTER.id, Choice.B, acknowledgement, version, status)
    [request] = page.requests  # sent once, no redirect is followed
    assert request.startswith("POST /vote HTTP/1.1\r\nHost: load.localhost:")
    assert f"\r\nCookie: {VOTER.cookie}\r\n" in request
    assert "\r\nContent-Type: application/x-www-form-urlencoded\r\n" in request
    assert request.endswith("\r\n\r\nchoice=b")


async def test_a_vote_without_a_response_may_be_recorded():
    async with connected(None) as page:
        result = await pages.vote(page, VOTER, Choice.A)
    assert (result.acknowledgement, result.status) == (NO_RESPONSE, 0)
    assert len(page.requests) == 1


async def test_headers_count_even_if_the_body_is_cut_off():
    async with connected(response(303, recorded("yes"), CLOSE, body="abc")[:-1]) as page:
        assert (await pages.vote(page, VOTER, Choice.A)).acknowledgement is ACKNOWLEDGED


async def test_without_a_listener_a_vote_is_not_sent():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with Connection(f"http://127.0.0.1:{reserved.getsockname()[1]}") as page:
            assert (await pages.vote(page, VOTER, Choice.A)).acknowledgement is REFUSED
            with pytest.raises(PageError, match=r"from .*/: Connection refused") as caught:
                await new_voter(page)
            assert caught.type is PageError


@pytest.mark.parametrize("name", ["voter", "__Host-voter"])
async def test_a_new_voter_has_the_cookie_of_the_page(name):
    cookie = f"{name}={'ab' * 16}.sig-nature"
    async with connected(response(200, f"Set-Cookie: {cookie}; Path=/; HttpOnly")) as page:
        voter = await new_voter(page)
    assert (voter.cookie, voter.id) == (cookie, "ab" * 16)


@pytest.mark.parametrize(
    ("status", "error"), [(503, PageUnavailable), (200, PageError), (308, PageError)]
)
async def test_a_page_without_a_cookie_is_not_one_to_vote_on(status, error):
    async with connected(response(status, "Location: /")) as page:
        with pytest.raises(PageError, match=f"status {status}") as caught:
            await new_voter(page)
    assert caught.type is error


@pytest.mark.parametrize(
    ("body", "totals"),
    [
        ({"options": {"a": {"votes": 2}, "b": {"votes": 3}}, "votes": 5}, Totals(2, 3, 5)),
        (
            {"options": {"a": {"votes": None}, "b": {"name": "B"}}, "votes": 5},
            Totals(None, None, 5),
        ),
        ({"hidden": True, "votes": 5}, Totals(None, None, 5)),
    ],
)
async def test_totals_are_read_even_if_they_are_hidden(body, totals):
    async with connected(response(body=json.dumps(body))) as page:
        assert await fetch_totals(page) == totals


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, '{"options": {}, "votes": null, "stale": true}'),
        (200, '{"options": {}, "votes": 5, "stale": true}'),
        (200, '{"options": {}, "votes": null}'),
        (200, "[]"),
        (404, "<html>"),
    ],
)
async def test_stale_totals_and_other_pages_are_an_error(status, body):
    async with connected(response(status, body=body)) as page:
        with pytest.raises(PageError):
            await fetch_totals(page)


# --- the generator


class HeldServer:
    """Opens the page at once, and holds votes until `release`."""

    def __init__(self):
        self.release = asyncio.Event()
        self.in_flight = self.most = self.votes = 0
        self.results = []

    async def respond(self, request):
        if request.startswith("GET"):
            return response(200, f"Set-Cookie: voter={'1' * 32}.signature")
        self.votes += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await self.release.wait()
        self.in_flight -= 1
        return response(303, recorded("yes"))

    def record(self, *result):
        self.results.append(result)

    @asynccontextmanager
    async def load(self, in_flight, **options):
        """Run a generator for as long as it takes, with so many votes held when this begins."""
        async with served(self.respond) as (url, _), asyncio.timeout(30):
            generator = LoadGenerator(url, self.record, **{"connections": 8, **options})
            running = asyncio.create_task(generator.run())
            await until(lambda: self.in_flight >= in_flight)
            yield generator
            await running


@pytest.mark.parametrize(
    ("options", "most"),
    [({"votes": 20}, 8), ({"votes": 20, "rate": 1e6}, 8), ({"votes": 30, "voters": 3}, 3)],
)
async def test_each_connection_has_one_vote_in_flight_and_voters_of_its_own(options, most):
    server = HeldServer()
    async with server.load(most, **options):
        server.release.set()
    assert (server.votes, server.most) == (options["votes"], most)
    assert [each for each, _, _ in server.results] == [ACKNOWLEDGED] * options["votes"]


async def test_latency_starts_when_a_vote_is_due():
    server, loop = HeldServer(), asyncio.get_running_loop()
    async with server.load(1, votes=2, rate=1e6, connections=1):
        start = loop.time()
        await asyncio.sleep(0.05)
        held = loop.time() - start
        server.release.set()
    # The second waited for the first, though its response came at once.
    assert all(seconds > held for _, seconds, _ in server.results)


@pytest.mark.parametrize("rate", [None, 0.001])
async def test_a_stopped_load_sends_no_more_and_waits_for_votes_in_flight(rate):
    server = HeldServer()
    async with server.load(8 if rate is None else 1, rate=rate) as generator:
        generator.stop()
        server.release.set()
    assert [each for each, _, _ in server.results] == [ACKNOWLEDGED] * (8 if rate is None else 1)


async def test_votes_in_flight_that_are_abandoned_may_be_recorded(monkeypatch):
    monkeypatch.setattr("voting.load.generator._DRAIN_TIMEOUT", 0.05)
    server = HeldServer()
    async with server.load(8) as generator:
        generator.stop()
    assert [result.acknowledgement for _, _, result in server.results] == [NO_RESPONSE] * 8


async def test_a_voter_whose_page_does_not_open_has_not_voted():
    server = HeldServer()
    async with served(response(503)) as (url, _):
        await LoadGenerator(url, server.record, votes=3, voters=2).run()
    assert [(told, result) for told, _, result in server.results] == [(REFUSED, None)] * 3


async def test_an_error_of_the_record_ends_the_load():
    def fail(*_):
        raise OSError("the disk is full")

    server = HeldServer()
    server.release.set()
    async with served(server.respond) as (url, _), asyncio.timeout(30):
        with pytest.raises(OSError, match="full"):
            await LoadGenerator(url, fail).run()


# --- the check


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (
        ("STABLE_SECONDS", 0.3),
        ("_STABLE_TIMEOUT", 1.0),
        ("_POLL_INTERVAL", 0.02),
    ):
        monkeypatch.setattr(f"voting.load.check.{name}", seconds)


def result_page(*votes):
    """Serve totals with these votes for `a` one after the other; None: they can't be read."""

    def body(a):
        return json.dumps({"options": {"a": {"votes": a}, "b": {"votes": 0}}, "votes": a})

    return connected(
        *(response(503) if each is None else response(body=body(each)) for each in votes)
    )


def expected(voters):
    votes = (VoteResult(f"{number:032x}", Choice.A, ACKNOWLEDGED) for number in range(voters))
    return Expected(votes)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("polls", [(), (0, 1, 2), (None,), (1, None, None, 2), (9, 8, 7)])
async def test_totals_that_agree_in_the_end_are_right(polls):
    async with result_page(*polls, 5) as page:
        verdict = await check(page, expected(5), NOTHING, patience=30)
    assert (verdict.agrees, verdict.line) == (True, "exact: a 5, b 0")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("polls", [(), (1, 2), (3, 4, 5), (5, None)])
async def test_totals_that_agree_only_for_a_moment_are_wrong(polls):
    async with result_page(*polls, 6) as page:
        verdict = await check(page, expected(5), NOTHING, patience=0.5)
    assert not verdict.agrees
    assert verdict.line == "differs: a 6 instead of 5, b 0, votes 6 instead of 5"


@pytest.mark.usefixtures("quick")
async def test_patience_starts_again_with_each_change_of_the_totals():
    async with result_page(*range(80), 200) as page:
        assert (await check(page, expected(200), NOTHING, patience=1)).agrees


@pytest.mark.usefixtures("quick")
async def test_totals_that_can_not_be_read_are_unknown():
    async with result_page(5, None) as page:
        verdict = await check(page, expected(5), NOTHING, patience=0.5)
    assert not verdict.agrees
    assert verdict.line == f"unknown: {page.url}/api/tally has status 503"


@pytest.mark.usefixtures("quick")
async def test_earlier_votes_are_counted_first():
    async with result_page(1, 1, 2, 2, 3, 4) as page:
        assert await wait_until_stable(page) == Totals(4, 0, 4)


@pytest.mark.usefixtures("quick")
async def test_totals_that_keep_changing_are_an_error():
    async with result_page(*range(10_000)) as page:
        with pytest.raises(PageError, match="others vote"):
            await wait_until_stable(page)
