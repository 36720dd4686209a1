"""The crowd of `voting load`, and servers that answer in every way there is."""

import asyncio
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import ClientTimeout, web

from voting.load.client import Answer, Client, NoAnswer, Voter
from voting.load.crowd import Casting
from voting.load.record import Shown, Told
from voting.poll.ballot import Choice

VOTER = Voter("0" * 32, f"voter={'0' * 32}.signature")
NO = Answer(Told.NO, by_app=False)
SILENCE = Answer(Told.UNKNOWN, by_app=False)
COOKIE = {"Set-Cookie": f"voter={'1' * 32}.signature; Path=/"}


@asynccontextmanager
async def served(answer, connections=8):
    """Run a server that answers each request with what `answer` returns, and a client of it."""
    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://load.localhost:{runner.addresses[0][1]}"
    async with Client(url, url, connections) as client:
        try:
            yield client
        finally:
            await runner.cleanup()


def always(status, headers=None, text=""):
    async def answer(_):
        return web.Response(status=status, headers=headers, text=text)

    return answer


def recorded(word):
    return {"Voting-Recorded": word}


@pytest.mark.parametrize(
    ("status", "headers", "answer"),
    [
        (303, recorded("yes"), Answer(Told.YES, by_app=True)),
        (
            303,
            recorded("yes") | {"Set-Cookie": "ballot=a.17-3; Path=/"},
            Answer(Told.YES, by_app=True, ballot="17-3"),
        ),
        (
            303,
            recorded("yes") | {"Set-Cookie": "__Host-ballot=b.9-0; Path=/; Secure"},
            Answer(Told.YES, by_app=True, ballot="9-0"),
        ),
        (409, recorded("no"), Answer(Told.NO, by_app=True)),
        (503, recorded("no"), Answer(Told.NO, by_app=True)),
        (503, recorded("unknown"), Answer(Told.UNKNOWN, by_app=True)),
        (429, {"Retry-After": "3"}, NO),
        (413, None, NO),
        (502, None, SILENCE),
        (504, recorded("maybe"), SILENCE),
        (200, None, SILENCE),
        (308, {"Location": "/elsewhere"}, SILENCE),
    ],
)
async def test_a_voter_believes_the_app_and_else_what_is_certain(status, headers, answer):
    async with served(always(status, headers)) as client:
        assert await client.vote(VOTER, Choice.A) == answer


async def test_a_vote_is_what_a_browser_sends_and_nothing_is_followed_or_sent_again():
    seen = []

    async def answer(request):
        seen.append((request.method, request.path, request.headers, await request.text()))
        request.transport.close()
        return web.Response()

    async with served(answer) as client:
        assert await client.vote(VOTER, Choice.B) == SILENCE
    [(method, path, headers, body)] = seen
    assert (method, path, body) == ("POST", "/vote", "choice=b")
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Cookie"] == VOTER.cookie
    assert headers["Host"].startswith("load.localhost:")


async def test_what_is_said_before_the_answer_breaks_off_counts():
    async def answer(request):
        response = web.StreamResponse(headers=recorded("yes") | {"Content-Length": "10"})
        await response.prepare(request)
        request.transport.close()
        return response

    async with served(answer) as client:
        assert await client.vote(VOTER, Choice.A) == Answer(Told.YES, by_app=True)


async def test_where_nobody_listens_nothing_was_recorded():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with Client(url, url, 1) as client:
            assert await client.vote(VOTER, Choice.A) == NO
            with pytest.raises(NoAnswer, match=r"at .*/: Connection refused") as caught:
                await client.open()
            assert not caught.value.temporary


@pytest.mark.parametrize("name", ["voter", "__Host-voter"])
async def test_a_new_voter_takes_the_cookie_of_the_page(name):
    cookie = {"Set-Cookie": f"{name}={'ab' * 16}.sig-nature; Path=/; HttpOnly"}
    async with served(always(200, cookie)) as client:
        assert await client.open() == Voter("ab" * 16, f"{name}={'ab' * 16}.sig-nature")


@pytest.mark.parametrize(("status", "temporary"), [(503, True), (200, False), (308, False)])
async def test_a_page_without_a_cookie_is_none_to_vote_on(status, temporary):
    async with served(always(status, {"Location": "/"})) as client:
        with pytest.raises(NoAnswer, match=f"it answers {status}") as caught:
            await client.open()
        assert caught.value.temporary is temporary


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            '{"options": {"a": {"votes": 2}, "b": {"votes": 3}}, "votes": 5, "stale": false}',
            Shown(2, 3, 5),
        ),
        (
            '{"options": {"a": {"votes": null}, "b": {"name": "B"}}, "votes": 5}',
            Shown(None, None, 5),
        ),
        ('{"hidden": true, "votes": 5}', Shown(None, None, 5)),
    ],
)
async def test_the_result_is_read_also_where_it_is_hidden(text, shown):
    async with served(always(200, text=text)) as client:
        assert await client.shown() == shown


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, '{"options": {}, "votes": null, "stale": true}'),
        (200, '{"options": {}, "votes": 5, "stale": true}'),
        (200, '{"options": {}, "votes": null}'),
        (200, "[]"),
        (404, "<html>"),
    ],
)
async def test_a_result_that_is_not_fresh_or_none_is_not_taken(status, text):
    async with served(always(status, text=text)) as client:
        with pytest.raises(NoAnswer):
            await client.shown()


class Crowded:
    """A server that opens the page at once and keeps votes until `go`, and a casting at it."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.flying = self.most = self.votes = 0
        self.heard = []

    async def answer(self, request):
        if request.method == "GET":
            return web.Response(headers=COOKIE)
        self.flying += 1
        self.votes += 1
        self.most = max(self.most, self.flying)
        await self.go.wait()
        self.flying -= 1
        return web.Response(status=303, headers=recorded("yes"))

    def casting(self, client, *, votes=None, rate=None, voters=None, changes=0.0, connections=8):
        return Casting(
            client,
            lambda *heard: self.heard.append(heard),
            votes=votes,
            rate=rate,
            voters=voters,
            changes=changes,
            connections=connections,
        )


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("rate", [None, 1e6])
async def test_votes_start_before_others_are_answered_and_never_more_than_may_be_at_once(rate):
    crowded = Crowded()
    async with served(crowded.answer) as client:
        running = asyncio.create_task(crowded.casting(client, votes=20, rate=rate).run())
        await until(lambda: crowded.flying == 8)
        crowded.go.set()
        await running
    assert (crowded.votes, crowded.most) == (20, 8)
    assert [told for told, _, _ in crowded.heard] == [Told.YES] * 20


async def test_latency_counts_from_the_moment_when_a_vote_was_due():
    crowded = Crowded()
    async with served(crowded.answer) as client:
        casting = crowded.casting(client, votes=2, rate=1e6, connections=1)
        running = asyncio.create_task(casting.run())
        await until(lambda: crowded.flying)
        start = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        held = asyncio.get_running_loop().time() - start
        crowded.go.set()
        await running
    # The second had to wait for the first, though it was answered at once.
    assert all(seconds > held for _, seconds, _ in crowded.heard)


async def test_a_voter_never_has_two_votes_in_flight():
    crowded = Crowded()
    async with served(crowded.answer) as client:
        running = asyncio.create_task(crowded.casting(client, votes=30, voters=3).run())
        await until(lambda: crowded.flying == 3)
        crowded.go.set()
        await running
    assert (crowded.votes, crowded.most) == (30, 3)


async def test_who_is_stopped_starts_no_more_and_waits_for_what_is_in_flight():
    crowded = Crowded()
    async with served(crowded.answer) as client:
        casting = crowded.casting(client)
        running = asyncio.create_task(casting.run())
        await until(lambda: crowded.flying == 8)
        casting.stop()
        crowded.go.set()
        await running
    assert [told for told, _, _ in crowded.heard] == [Told.YES] * 8


async def test_votes_in_flight_that_are_given_up_are_unknown(monkeypatch):
    monkeypatch.setattr("voting.load.crowd._DRAIN", 0.05)
    monkeypatch.setattr("voting.load.client._TIMEOUT", ClientTimeout())  # none
    crowded = Crowded()
    async with served(crowded.answer) as client:
        casting = crowded.casting(client)
        running = asyncio.create_task(casting.run())
        await until(lambda: crowded.flying == 8)
        casting.stop()
        await running
        crowded.go.set()
    outcomes = [outcome for _, _, outcome in crowded.heard]
    assert [(each.told, each.by_app) for each in outcomes] == [(Told.UNKNOWN, False)] * 8


async def test_a_voter_who_can_not_open_the_page_has_not_voted():
    crowded = Crowded()
    async with served(always(503)) as client:
        await crowded.casting(client, votes=3, voters=2).run()
    assert [(told, outcome) for told, _, outcome in crowded.heard] == [(Told.NO, None)] * 3


async def test_what_goes_wrong_in_the_listener_ends_it(monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    crowded = Crowded()
    crowded.go.set()
    monkeypatch.setattr(crowded, "heard", SimpleNamespace(append=fail))
    async with served(crowded.answer) as client, asyncio.timeout(30):
        with pytest.raises(OSError, match="full"):
            await crowded.casting(client).run()
