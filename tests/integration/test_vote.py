import asyncio
import inspect
import re

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.asgi import client_of
from support.wait import until

from voting.poll.ballot import MIN_VERSION, Choice, Version
from voting.poll.lifecycle import Poll
from voting.poll.question import Question
from voting.queue.producer import CastError, MaybeRecorded, NotRecorded, PollClosed, RoundOver
from voting.roles import vote
from voting.roles.vote import VoteRole
from voting.settings import VoteSettings, load_settings
from voting.telemetry import metrics
from voting.web import errors, forms
from voting.web.arrival import ARRIVAL
from voting.web.cookies import Receipt, VoterCookies
from voting.web.errors import Problem

KEY = "k" * 32
ENVIRON = {
    "REDIS_URL": "redis://unused",
    "SECRET_KEYS": KEY,
    "VOTE_URL": "http://vote.localhost",
}
HTMX = {"HX-Request": "true"}
PETS = Question("Which <pets>?", ("<Cats>", "Dogs"))
DRINKS = Question("And to drink?", ("Tea", "Coffee", "Water"))


def form(choice, number=1):
    return {"round": number, "choice": choice}


def browser(stream, base_url="http://vote.localhost", **environ):
    settings = load_settings(VoteSettings, {**ENVIRON, **environ})
    app = VoteRole(stream.caster, stream.vote, settings).create_app()
    return client_of(app, base_url)


@pytest.fixture
async def prepared(stream):
    await stream.sync_poll(MIN_VERSION, Poll(question=PETS))
    return stream


async def start_round(stream, number=2, question=DRINKS, **poll):
    """Start a round after every ballot of the one before."""
    last = await stream.append_ballot()
    rules = Poll(round=number, question=question, revision=number, after_version=last, **poll)
    await stream.sync_poll(MIN_VERSION, rules)


@pytest.fixture
async def client(prepared):
    async with browser(prepared) as client:
        yield client


@pytest.fixture
async def voter(client):
    """A browser that has opened the page."""
    await client.get("/")
    return client


async def poll_of(client, **headers):
    """Poll as an open page that shows the first round."""
    return await client.get("/?round=1", headers=HTMX | headers)


async def queued(stream):
    entries = await stream.consumer("test").read(count=1000, block=0.01)
    return [each.ballot() for each in entries]


def pressed(page):
    """Tell which choices the page marks as one's own."""
    found = re.findall(r'value="([a-l])"[^>]*aria-pressed="true"', page, re.DOTALL)
    assert page.count("✓") == len(found)
    return found


async def test_the_page_shows_both_options_and_sets_a_voter_cookie(client):
    page = await client.get("/")
    assert page.status_code == 200
    assert "<title>Which &lt;pets&gt;?</title>" in page.text
    assert "&lt;Cats&gt;" in page.text
    assert "Dogs" in page.text
    assert pressed(page.text) == []
    assert page.headers["cache-control"] == "no-store"
    [cookie] = page.headers.get_list("set-cookie")
    assert cookie.startswith("voter=")
    assert "; HttpOnly" in cookie
    assert "; Path=/" in cookie
    assert "; SameSite=lax" in cookie
    assert "; Max-Age=31536000" in cookie
    assert "Secure" not in cookie


async def test_over_tls_the_cookies_are_bound_to_the_host(prepared):
    async with browser(
        prepared, "https://vote.example.com", VOTE_URL="https://vote.example.com"
    ) as client:
        cookies = (await client.get("/")).headers.get_list("set-cookie")
        cookies += (await client.post("/vote", data=form("a"))).headers.get_list("set-cookie")
    assert [each.partition("=")[0] for each in cookies] == ["__Host-voter", "__Host-ballot"]
    assert all("; Secure" in each for each in cookies)


async def test_a_voter_stays_the_same(voter):
    assert (await voter.get("/")).headers.get_list("set-cookie") == []


async def test_a_vote_without_javascript_redirects_to_the_page(voter, prepared):
    answer = await voter.post("/vote", data=form("b"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    [ballot] = await queued(prepared)
    assert ballot.choice is Choice.B
    assert ballot.voter == VoterCookies([KEY]).read(voter.cookies["voter"], "").hex
    assert pressed((await voter.get("/")).text) == ["b"]


async def test_a_vote_with_htmx_returns_the_ballot(voter, prepared):
    answer = await voter.post("/vote", data=form("a"), headers=HTMX)
    assert answer.status_code == 200
    assert answer.text.startswith('<form id="ballot"')
    assert pressed(answer.text) == ["a"]
    assert len(await queued(prepared)) == 1


async def test_a_voter_can_vote_again(voter, prepared):
    for choice in "aba":
        await voter.post("/vote", data=form(choice))
    ballots = await queued(prepared)
    assert [each.choice for each in ballots] == ["a", "b", "a"]
    assert len({each.voter for each in ballots}) == 1
    assert pressed((await voter.get("/")).text) == ["a"]


async def test_the_receipt_turns_from_recorded_to_counted(voter, prepared):
    assert "Pick one. You can" in (await poll_of(voter)).text
    await voter.post("/vote", data=form("a"))
    assert "Your vote for <bdi>&lt;Cats&gt;</bdi> is recorded" in (await poll_of(voter)).text
    [entry] = await prepared.consumer("test").read(count=10, block=1)
    await prepared.consumer("me").acknowledge([entry.id])

    async def is_counted() -> bool:
        return "counted. You" in (await poll_of(voter)).text

    await until(is_counted)


async def test_an_open_page_polls_a_part_of_the_page_that_is_not_sent_again_unchanged(voter):
    await voter.post("/vote", data=form("a"))
    first = await poll_of(voter)
    assert first.text.startswith('<form id="ballot"')
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == "accept-language, cookie, hx-request"
    known = {"If-None-Match": first.headers["etag"]}
    again = await poll_of(voter, **known)
    assert (again.status_code, again.content) == (304, b"")
    for name in ("voting-fragment", "cache-control", "vary", "etag"):
        assert again.headers[name] == first.headers[name]
    await voter.post("/vote", data=form("b"))
    assert (await poll_of(voter, **known)).status_code == 200


@pytest.mark.parametrize("state", ["not voted", "recorded", "refused", "unanswered", "closed"])
async def test_an_open_page_polls_in_every_state(voter, prepared, state):
    if state == "recorded":
        page = await voter.post("/vote", data=form("a"), headers=HTMX)
    elif state == "refused":
        page = await voter.post("/vote", data=form("c"), headers=HTMX)
    else:
        if state == "unanswered":
            set_unanswered(voter, str(await now_of(voter)))
        if state == "closed":
            await prepared.sync_poll(MIN_VERSION, Poll(question=PETS, state="closed"))
        page = await poll_of(voter)
    assert page.text.count('hx-get="/?round=1" hx-trigger="every 1s, again"') == 1
    # Polls do not replace what the answer to a vote says.
    assert ("hx-morph-skip" in page.text) == (state == "refused")


async def test_a_late_receipt_says_that_counting_takes_longer(voter, monkeypatch):
    await voter.post("/vote", data=form("a"))
    assert "in a moment" in (await poll_of(voter)).text
    monkeypatch.setattr(vote, "LATE_AFTER", -60)
    late = "is recorded and will be counted. That takes longer than usual"
    assert late in (await poll_of(voter)).text


async def test_many_open_pages_cause_one_query_each(voter, prepared, monkeypatch):
    await voter.post("/vote", data=form("a"))
    asked = []

    def count(name):
        query = getattr(prepared.vote, name)

        async def counting():
            asked.append(name)
            return await query()

        monkeypatch.setattr(prepared.vote, name, counting)

    count("progress")
    count("cast_rules")
    async with browser(prepared) as client:
        client.cookies = voter.cookies
        await asyncio.gather(*(poll_of(client) for _ in range(50)))
    assert sorted(asked) == ["cast_rules", "progress"]


async def test_the_page_is_shown_while_redis_is_unavailable(prepared, voter, monkeypatch):
    await voter.post("/vote", data=form("a"))

    async def fail():
        raise ConnectionError("away")

    monkeypatch.setattr(prepared.vote, "progress", fail)
    async with browser(prepared) as client:
        client.cookies = voter.cookies
        page = await client.get("/")
    assert page.status_code == 200
    assert pressed(page.text) == ["a"]
    assert "recorded" in page.text


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"round=1&choice=c", "application/x-www-form-urlencoded", 422),  # there are two
        (b"round=1&choice=m", "application/x-www-form-urlencoded", 422),
        (b"round=1", "application/x-www-form-urlencoded", 422),
        (b"choice=a", "application/x-www-form-urlencoded", 422),
        (b"round=0&choice=a", "application/x-www-form-urlencoded", 422),
        (b"round=1&choice=" + b"a" * 1_000_000, "application/x-www-form-urlencoded", 413),
        (b"round=1&choice=a", "text/plain", 415),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
async def test_invalid_input_is_refused_and_not_queued(
    voter, prepared, body, content_type, status, headers
):
    answer = await voter.post(
        "/vote", content=body, headers={**headers, "content-type": content_type}
    )
    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert "Nothing was recorded" in answer.text
    assert answer.text.startswith('<form id="ballot"' if headers else "<!doctype html>")
    assert await queued(prepared) == []


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "http://evil"}])
async def test_a_vote_from_another_site_is_refused(voter, prepared, headers):
    answer = await voter.post("/vote", data=form("a"), headers=headers)
    assert answer.status_code == 403
    assert "not recorded. Open http://vote.localhost and choose" in answer.text
    assert await queued(prepared) == []


async def vote_from(stream, origin, base_url):
    """Vote on a page of https://vote.example.com whose address a browser takes for `origin`."""
    async with browser(stream, base_url, VOTE_URL="https://vote.example.com") as client:
        await client.get("/")
        return await client.post("/vote", data=form("a"), headers={"origin": origin})


async def test_behind_a_proxy_that_changes_the_host_votes_are_accepted(prepared):
    answer = await vote_from(prepared, "https://vote.example.com", "https://10.0.0.7:8080")
    assert answer.status_code == 303


async def test_of_a_proxy_that_changes_the_host_the_operator_is_told_once(prepared, caplog):
    address = {"origin": "http://vote.example.com:8080"}
    async with browser(prepared, VOTE_URL="") as client:
        await client.get("/")
        for _ in range(2):
            answer = await client.post("/vote", data=form("a"), headers=address)
            assert answer.status_code == 403
    assert "Open the voting page itself and choose there" in answer.text
    [warning] = [each for each in caplog.records if "proxy" in each.getMessage()]
    assert "set VOTE_URL to that address" in warning.getMessage()
    assert (warning.origin, warning.host) == ("http://vote.example.com:8080", "vote.localhost")


async def test_who_opens_a_page_of_https_over_http_is_told_where_to_go(prepared):
    answer = await vote_from(prepared, "http://vote.example.com", "http://vote.example.com")
    assert answer.status_code == 400
    assert "Open https://vote.example.com and choose there" in answer.text


FORGED = {"missing": None, "long": "a" * 3000, "of another key": VoterCookies(["x" * 32]).mint("")}


@pytest.mark.parametrize("cookie", FORGED.values(), ids=FORGED.keys())
async def test_a_vote_with_an_invalid_cookie_is_refused(client, prepared, cookie):
    headers = {} if cookie is None else {"cookie": f"voter={cookie}"}
    answer = await client.post("/vote", data=form("a"), headers=headers)
    assert answer.status_code == 400
    assert ("cookie is of another poll" if cookie else "accept cookies") in answer.text
    assert answer.headers.get_list("set-cookie")[0].startswith("voter=")
    assert await queued(prepared) == []


@pytest.mark.parametrize("cookie", FORGED.values(), ids=FORGED.keys())
async def test_after_a_vote_without_a_valid_cookie_the_next_is_accepted(client, prepared, cookie):
    if cookie:
        client.cookies.set("voter", cookie, domain="vote.localhost")
    assert (await client.post("/vote", data=form("a"))).status_code == 400
    assert (await client.post("/vote", data=form("a"))).status_code == 303
    assert len(await queued(prepared)) == 1


async def test_nothing_of_another_poll_is_shown_or_kept(stream):
    names = {"voter", "ballot", "unanswered"}
    await stream.sync_poll(MIN_VERSION, Poll(database_id="one"))
    async with browser(stream) as client:
        await client.get("/")
        await client.post("/vote", data=form("a"))
        set_unanswered(client, "99999999999999")
        seen = client.cookies
        assert {each.name for each in seen.jar} == names
        assert "know whether your vote" in (await client.get("/")).text
    await stream.admin.delete(stream.queue.stream_key, stream.queue.poll_key)
    await stream.sync_poll(MIN_VERSION, Poll(database_id="another"))
    async with browser(stream) as client:  # with the same keys
        client.cookies = seen
        pages = [await client.get("/") for _ in range(2)]
        assert {each.name for each in client.cookies.jar} == {"voter"}
    for page in pages:
        assert "Pick one. You can" in page.text
        assert pressed(page.text) == []


async def test_as_long_as_the_poll_is_not_known_votes_are_refused_and_no_cookie_is_made(stream):
    async with browser(stream) as client:
        page = await client.get("/")
        assert (page.status_code, page.headers.get_list("set-cookie")) == (503, [])
        assert page.headers["retry-after"] == "2"
        assert "<title>Vote</title>" in page.text
        assert "We can't take votes right now" in page.text
        assert "not recorded" not in page.text.partition("<template")[0]
        assert "<form" not in page.text
        # It asks again until there is a question: with JavaScript, and without.
        assert 'hx-get="/" hx-trigger="every 1s, again"' in page.text
        assert '<noscript><meta http-equiv="refresh" content="3; url=/">' in page.text
        assert (await client.get("/", headers=HTMX)).status_code == 204
        for headers in ({}, HTMX):
            answer = await client.post("/vote", data=form("a"), headers=headers)
            assert (answer.status_code, answer.headers["voting-recorded"]) == (503, "no")
            assert "Your vote was not recorded" in answer.text
        # An open page keeps its question: only its notes are replaced.
        assert answer.headers["hx-retarget"] == "#notes"
        assert answer.headers["hx-reswap"] == "innerHTML"
        assert answer.text.startswith('<div class="problem"')

        await stream.sync_poll(MIN_VERSION, Poll(question=PETS))

        async def asks():
            return (await client.get("/", headers=HTMX)).text.startswith("<form")

        await until(asks)
        assert (await client.post("/vote", data=form("a"))).status_code == 303


async def test_a_vote_is_cast_for_the_poll_that_redis_has_by_now(stream):
    await stream.sync_poll(MIN_VERSION, Poll(database_id="one"))
    async with browser(stream) as first, browser(stream) as other:
        await first.get("/")
        await stream.admin.delete(stream.queue.stream_key, stream.queue.poll_key)
        await stream.sync_poll(MIN_VERSION, Poll(database_id="another"))
        await other.get("/")
        first.cookies = other.cookies

        async def accepted():
            return (await first.post("/vote", data=form("a"))).status_code == 303

        await until(accepted)


async def test_polls_on_two_ports_of_a_host_take_a_browser_for_one_voter_each(stream):
    await stream.sync_poll(MIN_VERSION, Poll())
    urls = ("http://vote.localhost:8080", "http://vote.localhost:9090")
    # Two keys, as each deployment has its own.
    async with (
        browser(stream, urls[0], VOTE_URL=urls[0], SECRET_KEYS="1" * 32) as one,
        browser(stream, urls[1], VOTE_URL=urls[1], SECRET_KEYS="2" * 32) as other,
    ):
        other.cookies = one.cookies = httpx.Cookies()
        for choice in "ab":
            for client in (one, other):
                await client.get("/")
                await client.post("/vote", data=form(choice))
        other_page = await other.get("/")
    assert len({each.voter for each in await queued(stream)}) == 2
    assert pressed(other_page.text) == ["b"]


async def test_each_of_several_cookies_of_a_name_is_looked_at(voter, prepared):
    mine, strange = voter.cookies["voter"], FORGED["of another key"]
    await voter.post("/vote", data=form("b"))
    receipt = voter.cookies["ballot"]
    voter.cookies.clear()
    for order in ((mine, strange), (strange, mine)):
        cookies = "; ".join(f"voter={each}" for each in order)
        headers = {"cookie": f"{cookies}; ballot=x; ballot={receipt}"}
        page = await voter.get("/", headers=headers)
        assert pressed(page.text) == ["b"]
        assert page.headers.get_list("set-cookie") == []
        answer = await voter.post("/vote", data=form("a"), headers=headers)
        assert answer.status_code == 303
    assert len({each.voter for each in await queued(prepared)}) == 1


@pytest.mark.parametrize(
    ("error", "status", "words", "recorded", "reason"),
    [
        (PollClosed(), 409, "Voting is closed", "no", "closed"),
        (RoundOver(), 503, "was not recorded", "no", "unavailable"),  # but Redis has no other
        (NotRecorded(), 503, "was not recorded", "no", "unavailable"),
        (MaybeRecorded(), 503, "may have been, or not", "unknown", "unknown"),
        (ZeroDivisionError(), 503, "may have been, or not", "unknown", "unknown"),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
async def test_a_failed_vote_reports_its_outcome_and_keeps_the_previous_choice(
    voter, prepared, monkeypatch, error, status, words, recorded, reason, headers
):
    first = await voter.post("/vote", data=form("b"), headers=headers)
    assert first.headers["voting-recorded"] == "yes"

    async def fail(*_):
        raise error

    monkeypatch.setattr(prepared.caster, "cast", fail)
    before = refused()
    answer = await voter.post("/vote", data=form("a"), headers=headers)
    assert refused() == before | {reason: before[reason] + 1}
    assert answer.status_code == status
    assert words in answer.text
    assert answer.headers["voting-recorded"] == recorded
    assert pressed(answer.text) == ([] if recorded == "unknown" else ["b"])
    cookies = [each.partition("=")[0] for each in answer.headers.get_list("set-cookie")]
    assert cookies == (["unanswered"] if recorded == "unknown" else [])
    assert ("retry-after" in answer.headers) == (status == 503)


# --- a page of another round


@pytest.mark.parametrize("known", [True, False], ids=["known", "found by the script"])
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
async def test_a_vote_for_a_question_that_is_over_gets_the_next(voter, prepared, known, headers):
    await voter.post("/vote", data=form("b"))
    await start_round(prepared)
    if known:
        await until_asked(voter, DRINKS)
    before = refused()
    answer = await voter.post("/vote", data=form("a"), headers=headers)
    assert refused() == before | {"round_over": before["round_over"] + 1}
    assert (answer.status_code, answer.headers["voting-recorded"]) == (409, "no")
    assert answer.headers["voting-fragment"] == "1"
    assert answer.headers.get_list("set-cookie") == []
    assert answer.text.startswith('<form id="ballot"' if headers else "<!doctype html>")
    assert "That question is over." in answer.text
    assert "Your vote was not recorded. Here is the next one: please choose." in answer.text
    assert question_in(answer.text) == ("And to drink?", ["Tea", "Coffee", "Water"])
    assert 'name="round" value="2"' in answer.text
    assert pressed(answer.text) == []  # neither this one nor that of the earlier question
    assert [each.choice for each in await queued(prepared)] == ["b", "a"]  # of the first round

    assert (await voter.post("/vote", data=form("c", 2))).status_code == 303
    [ballot] = await queued(prepared)
    assert ballot.choice == "c"


async def test_the_round_is_compared_when_the_ballot_is_cast(voter, prepared, monkeypatch):
    """The next round starts when the role has looked at the rules already."""
    await voter.get("/")
    cast = prepared.caster.cast

    async def start_first(*arguments):
        await start_round(prepared)
        return await cast(*arguments)

    monkeypatch.setattr(prepared.caster, "cast", start_first)
    answer = await voter.post("/vote", data=form("a"), headers=HTMX)
    assert (answer.status_code, answer.headers["voting-recorded"]) == (409, "no")
    assert "Tea" in answer.text
    assert await queued_of(prepared, voter) == []


async def test_a_question_that_is_over_may_be_followed_by_a_closed_one(voter, prepared):
    await start_round(prepared, state="closed")
    answer = await voter.post("/vote", data=form("a"))
    assert answer.status_code == 409
    assert "That question is over." in answer.text
    assert "please choose" not in answer.text.partition("<template")[0]
    assert " disabled" in answer.text


async def test_a_vote_of_a_page_from_a_process_that_is_ahead_is_accepted(voter, prepared):
    """Within the time for which the rules are cached."""
    await voter.get("/")
    await start_round(prepared)
    for choice, status in (("d", 422), ("c", 303)):
        answer = await voter.post("/vote", data=form(choice, 2))
        assert answer.status_code == status
    assert await queued_of(prepared, voter) == ["c"]


async def test_an_open_page_does_not_go_back_to_an_earlier_question(voter, prepared):
    await voter.get("/")
    await start_round(prepared)
    page = await voter.get("/?round=2", headers=HTMX)  # of a process that is ahead
    assert question_in(page.text)[0] == "And to drink?"


@pytest.fixture
def answers(prepared, monkeypatch):
    """What reads the rules of the poll: the last of these."""
    answers = [prepared.vote.cast_rules]

    async def read():
        return await answers[-1]()

    monkeypatch.setattr(prepared.vote, "cast_rules", read)
    return answers


async def fail_to_read():
    raise ConnectionError("away")


async def test_an_open_page_stays_while_its_question_can_not_be_read(prepared, answers):
    async with browser(prepared) as client:
        await client.get("/")
        answers.append(fail_to_read)
        page = await client.get("/?round=2", headers=HTMX)  # of a process that is ahead
        assert (page.status_code, page.headers["voting-fragment"]) == (204, "1")
        answers.pop()  # Redis has no other: the database was restored
        page = await client.get("/?round=2", headers=HTMX)
        assert question_in(page.text)[0] == "Which &lt;pets&gt;?"


@pytest.mark.parametrize("query", ["", "?round=", "?round=x", "?round=-1", "?round=%31", "?x=1"])
async def test_any_query_gets_the_question(voter, query):
    page = await voter.get(f"/{query}", headers=HTMX)
    assert question_in(page.text)[0] == "Which &lt;pets&gt;?"


async def test_no_question_is_called_over_while_redis_does_not_say_so(prepared, answers):
    async with browser(prepared) as client:
        await client.get("/")
        answers.append(fail_to_read)
        for number, status in ((2, 503), (1, 303)):
            answer = await client.post("/vote", data=form("a", number))
            assert answer.status_code == status
            assert (answer.headers["voting-recorded"] == "no") == (status == 503)


async def test_a_vote_for_a_question_that_is_over_ends_the_doubt_about_it(voter, prepared):
    sent = await now_of(voter)
    await start_round(prepared)
    set_unanswered(voter, f"{sent}.{sent}")
    assert (await voter.post("/vote", data=form("a"))).status_code == 409
    assert not unanswered(voter)


async def test_an_open_page_of_an_earlier_question_keeps_its_voter(client):
    """Only a page without a question gets a voter: the answer to a vote says what is wrong."""
    assert (await poll_of(client)).headers.get_list("set-cookie") == []
    assert (await client.get("/", headers=HTMX)).headers.get_list("set-cookie") != []


def question_in(page):
    """Return the title and the options."""
    [title] = re.findall(r"<h1[^>]*>(.*)</h1>", page)
    return title, re.findall(r'<span class="name[^>]*>(.*)</span>', page)


async def until_asked(client, question):
    async def is_asked():
        page = await client.get("/", headers=HTMX)
        return question_in(page.text) == (question.title, list(question.names))

    await until(is_asked)


async def queued_of(stream, client):
    voter = VoterCookies([KEY]).read(client.cookies["voter"], "").hex
    return [each.choice for each in await queued(stream) if each.voter == voter]


def test_every_cast_error_has_a_problem():
    assert set(vote._CAST_PROBLEMS) == set(CastError.__subclasses__())


async def test_a_vote_for_a_closed_poll_is_a_conflict(voter, prepared):
    await prepared.sync_poll(MIN_VERSION, Poll(state="closed"))
    assert (await voter.post("/vote", data=form("a"))).status_code == 409


async def test_votes_are_refused_before_a_worker_has_created_the_stream(stream):
    async with browser(stream) as client:
        await client.get("/")
        answer = await client.post("/vote", data=form("a"))
    assert answer.status_code == 503
    assert "was not recorded" in answer.text


async def test_votes_are_refused_before_the_memory_of_redis_is_full(voter, prepared, monkeypatch):
    async def memory_is_low():
        return True

    monkeypatch.setattr(prepared.vote, "memory_is_low", memory_is_low)
    async with browser(prepared) as client:
        client.cookies = voter.cookies
        await client.post("/vote", data=form("b"))  # with its answer comes the news
        before = refused()
        answer = await client.post("/vote", data=form("a"))
    assert refused() == before | {"full": before["full"] + 1}
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert "was not recorded" in answer.text
    [ballot] = await queued(prepared)
    assert ballot.choice == Choice.B


async def test_a_rate_limited_response_has_retry_after(prepared):
    async with browser(prepared, VOTES_PER_MINUTE="3") as client:
        await client.get("/")
        for choice in "aba":
            assert (await client.post("/vote", data=form(choice))).status_code == 303
        answers = [
            await client.post("/vote", data=form("b"), headers=headers) for headers in ({}, HTMX)
        ]
        assert pressed(answers[-1].text) == ["a"]
    for answer in answers:
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 20
        assert answer.headers["voting-recorded"] == "no"
        assert "was not recorded" in answer.text
    async with browser(prepared, VOTES_PER_MINUTE="3") as another:
        await another.get("/")
        assert (await another.post("/vote", data=form("a"))).status_code == 303
    assert len(await queued(prepared)) == 4


async def test_a_client_that_disconnects_in_the_body_causes_no_server_error(prepared, caplog):
    settings = load_settings(VoteSettings, ENVIRON)
    app = VoteRole(prepared.caster, prepared.vote, settings).create_app()
    headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"8")]
    scope = {"type": "http", "method": "POST", "path": "/vote", "query_string": b""}
    said = iter(
        [{"type": "http.request", "body": b"cho", "more_body": True}, {"type": "http.disconnect"}]
    )
    answer, before = [], refused()

    async def receive():
        return next(said)

    async def send(message):
        answer.append(message)

    await app({**scope, "headers": headers}, receive, send)
    assert answer[0]["status"] == 400
    assert refused() == before | {"invalid_form": before["invalid_form"] + 1}
    assert caplog.records == []
    assert await queued(prepared) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(NotRecorded(), 303), (PollClosed(), 303), (RoundOver(), 303), (MaybeRecorded(), 429)],
)
async def test_a_vote_that_was_not_recorded_is_refunded(prepared, monkeypatch, error, status):
    async def fail(*_):
        raise error

    async with browser(prepared, VOTES_PER_MINUTE="1") as client:
        await client.get("/")
        with monkeypatch.context() as patch:
            patch.setattr(prepared.caster, "cast", fail)
            await client.post("/vote", data=form("a"))
        assert (await client.post("/vote", data=form("a"))).status_code == status


async def test_a_cookie_in_two_browsers_is_one_voter(voter, prepared):
    async with browser(prepared) as thief:
        thief.cookies = voter.cookies
        await thief.post("/vote", data=form("b"))
    await voter.post("/vote", data=form("a"))
    first, second = await queued(prepared)
    assert first.voter == second.voter


async def test_voters_keep_their_id_during_a_key_rotation(prepared):
    old, new = "o" * 32, "n" * 32
    async with browser(prepared, SECRET_KEYS=old) as client:
        await client.get("/")
        cookies = client.cookies
        await client.post("/vote", data=form("a"))
    for keys in (f"{new},{old}", f"{old},{new}"):  # in a rollout both are there
        async with browser(prepared, SECRET_KEYS=keys) as client:
            client.cookies = cookies
            assert (await client.get("/")).headers.get_list("set-cookie") == []
            await client.post("/vote", data=form("b"))
    assert len({each.voter for each in await queued(prepared)}) == 1
    async with browser(prepared, SECRET_KEYS=new) as client:
        client.cookies = cookies
        assert (await client.post("/vote", data=form("a"))).status_code == 400


@pytest.mark.parametrize("cookie", ["", "a", "a.", "m.1-1", "a.1", "a.1-x", "a.1-1.1", "<b>.1-1"])
async def test_a_malformed_receipt_cookie_is_ignored(voter, cookie):
    assert Receipt.parse(cookie) is None
    voter.cookies["ballot"] = cookie
    page = await voter.get("/")
    assert page.status_code == 200
    assert pressed(page.text) == []


@given(st.text(max_size=60))
def test_a_receipt_cookie_is_parsed_or_ignored(cookie):
    receipt = Receipt.parse(cookie)
    assert receipt is None or Receipt.parse(str(receipt)) == receipt


# Pieces of cookies as a header has them.
COOKIES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"voter=", b"ballot=", b"a.1-1", b"; ", b";", b"=", b'"', b"\\", b",", b" "]
        ),
        st.builds(lambda: VoterCookies([KEY]).mint("").encode()),
        st.binary(max_size=5),
    ),
    max_size=10,
).map(b"".join)


@given(header=COOKIES)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_cookie_header_gets_a_page(client, header):
    client.cookies.clear()
    for method, path, data in (("GET", "/", None), ("POST", "/vote", form("m"))):
        answer = await client.request(method, path, data=data, headers={b"cookie": header})
        assert answer.status_code == (200 if method == "GET" else 422)


async def test_a_receipt_for_no_option_of_the_question_is_ignored(voter):
    voter.cookies.set("ballot", "c.9999999999999-1", domain="vote.localhost")
    page = await voter.get("/")
    assert (page.status_code, pressed(page.text)) == (200, [])


async def test_a_new_voter_has_no_receipt(client):
    page = await client.get("/", headers={"cookie": "ballot=a.1-1; voter=of.another.key"})
    assert pressed(page.text) == []
    assert "Pick one. You can" in page.text


@pytest.mark.parametrize(("method", "path"), [("PUT", "/vote"), ("GET", "/vote"), ("POST", "/")])
async def test_other_methods_are_refused(client, method, path):
    assert (await client.request(method, path)).status_code == 405


def measured(name, **labels):
    return metrics.OF_ROLE["vote"].get_sample_value(f"voting_{name}", labels)


def refused():
    """Tell how often there was which reason."""
    return {each: measured("ballots_refused_total", reason=each) for each in metrics.REASONS}


async def test_an_accepted_vote_is_measured_once_and_no_refusal(voter):
    names = ("ballots_accepted_total", "ballot_accept_duration_seconds_count")
    before, reasons = [measured(name) for name in names], refused()
    await voter.post("/vote", data=form("a"))
    await voter.post("/vote", data=form("b"), headers=HTMX)
    assert [measured(name) for name in names] == [each + 2 for each in before]
    assert refused() == reasons


@pytest.mark.parametrize(
    ("reason", "request_"),
    [
        ("cross_origin", {"data": form("a"), "headers": {"origin": "null"}}),
        ("no_cookie", {"data": form("a"), "headers": {"cookie": "voter=another"}}),
        ("invalid_form", {"data": form("c")}),
        ("invalid_form", {"json": form("a")}),
        ("too_large", {"data": form("a" * 1_000_000)}),
    ],
)
async def test_a_refused_request_is_measured_by_its_reason(voter, reason, request_):
    before, accepted = refused(), measured("ballots_accepted_total")
    await voter.post("/vote", **request_)
    assert refused() == before | {reason: before[reason] + 1}
    assert measured("ballots_accepted_total") == accepted


def test_every_problem_of_a_vote_has_a_reason():
    problems = {name: each for name, each in vars(errors).items() if isinstance(each, Problem)}
    assert {each.reason for each in problems.values()} == set(metrics.REASONS)
    source = inspect.getsource(vote) + inspect.getsource(forms)
    named = {name for name in problems if re.search(rf"\b{name}\b", source)}
    assert len(named) > 10
    assert {name for name in named if problems[name].reason == "other"} == {"NO_QUESTION", "LOST"}


async def test_a_vote_is_in_flight_until_it_is_answered(voter, prepared, monkeypatch):
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(*_):
        arrived.set()
        await go.wait()
        raise NotRecorded

    monkeypatch.setattr(prepared.caster, "cast", wait)
    before = measured("ballots_in_flight")
    voting = asyncio.create_task(voter.post("/vote", data=form("a")))
    async with asyncio.timeout(30):
        await arrived.wait()
    assert measured("ballots_in_flight") == before + 1
    go.set()
    await voting
    assert measured("ballots_in_flight") == before


# --- when a vote was sent, and votes without an answer


def in_doubt(page):
    """Whether the page itself says so, not its template for lost connections."""
    return "We don't know whether" in page.partition("<template")[0]


def unanswered(client):
    return client.cookies.get("unanswered")


def set_unanswered(client, value):
    client.cookies.set("unanswered", value, domain="vote.localhost")


async def now_of(client):
    """Return the time that the page tells, in milliseconds."""
    page = (await client.get("/")).text
    return int(re.search(r'name="clock" content="(\d+)"', page)[1])


async def test_the_page_and_its_answers_tell_the_time_of_redis(voter, prepared):
    before = await prepared.clock() - 1
    times = [await now_of(voter)]
    answers = [
        await poll_of(voter),
        await voter.post("/vote", data=form("a"), headers=HTMX),
        await voter.post("/vote", data=form("c")),
    ]
    times += [int(each.headers["voting-clock"]) for each in answers]
    now = await prepared.clock()
    assert all(before < each / 1000 <= now for each in times)


@pytest.mark.parametrize("age", [6.0, 3600.0, -3.0])
async def test_a_vote_that_its_page_has_given_up_is_refused(voter, prepared, age):
    """A proxy, or a suspended process, has held it up; or the clock of the device has jumped."""
    sent = int(await now_of(voter) - age * 1000)
    set_unanswered(voter, f"{sent}.{sent}")
    before = refused()
    answer = await voter.post("/vote", data=form("a"))
    assert (answer.status_code, answer.headers["voting-recorded"]) == (503, "no")
    assert refused() == before | {"unavailable": before["unavailable"] + 1}
    assert await queued(prepared) == []
    # Its page knows the time again.
    sent = int(answer.headers["voting-clock"])
    set_unanswered(voter, f"{sent}.{sent}")
    assert (await voter.post("/vote", data=form("a"))).status_code == 303


@pytest.mark.parametrize("value", ["", "x", "1.x", "-1.5", "1.2.3", "9" * 16, "1." + "9" * 16])
async def test_a_vote_with_another_cookie_of_that_name_counts(voter, prepared, value):
    set_unanswered(voter, value)
    assert (await voter.post("/vote", data=form("a"))).status_code == 303
    assert len(await queued(prepared)) == 1


class Waiting:
    """An arrival whose client has gone, or not."""

    def __init__(self, *, current):
        self.current = current

    def is_current(self):
        return self.current


@pytest.mark.parametrize(("current", "status"), [(True, 303), (False, 503)])
async def test_a_vote_whose_client_has_gone_is_not_sent(prepared, current, status):
    settings = load_settings(VoteSettings, ENVIRON)
    app = VoteRole(prepared.caster, prepared.vote, settings).create_app()

    async def with_arrival(scope, receive, send):
        await app({**scope, "extensions": {ARRIVAL: Waiting(current=current)}}, receive, send)

    async with client_of(with_arrival, "http://vote.localhost") as client:
        await client.get("/")
        assert (await client.post("/vote", data=form("a"))).status_code == status
    assert len(await queued(prepared)) == (status == 303)


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "poll"])
async def test_no_receipt_is_shown_after_a_vote_without_an_answer(voter, prepared, headers):
    """The answer to the second vote was lost: that one may be counted, or the first."""
    await voter.post("/vote", data=form("a"))
    await queued(prepared)
    sent = await now_of(voter)
    set_unanswered(voter, f"{sent}.{sent}")
    page = (await voter.get("/", headers=headers)).text
    assert in_doubt(page)
    assert pressed(page) == []
    # The next answer ends that.
    assert (await voter.post("/vote", data=form("b"))).status_code == 303
    assert not unanswered(voter)
    assert "Your vote for <bdi>Dogs" in (await voter.get("/", headers=headers)).text


async def test_a_vote_without_an_answer_is_not_forgotten_where_the_clock_has_stepped_back(
    voter, prepared
):
    """Ids of the round before are ahead of the clock, by which pages send."""
    last = await prepared.append_ballot(ago=-3600)
    rules = Poll(round=2, question=DRINKS, revision=2, after_version=last)
    await prepared.sync_poll(MIN_VERSION, rules)
    assert (await voter.post("/vote", data=form("a", 2))).status_code == 303
    sent = await now_of(voter)
    set_unanswered(voter, f"{sent}.{sent}")
    assert in_doubt((await voter.get("/")).text)


async def test_a_refused_vote_leaves_an_earlier_one_without_an_answer(voter):
    first = await now_of(voter) - 60_000
    for sent in (first + 60_000, None):  # with JavaScript, and without
        set_unanswered(voter, f"{first}.{sent}" if sent else str(first))
        answer = await voter.post("/vote", data=form("c"))
        assert answer.status_code == 422
        assert unanswered(voter) == str(first)
        assert pressed(answer.text) == []
    set_unanswered(voter, f"{first}.{first}")
    await voter.post("/vote", data=form("c"))
    assert not unanswered(voter)


@pytest.mark.parametrize("known", [None, "1700000000000", "1700000000000.1700000000001"])
async def test_a_vote_of_unknown_outcome_is_remembered_also_without_javascript(
    voter, prepared, monkeypatch, known
):
    async def fail(*_):
        raise MaybeRecorded

    monkeypatch.setattr(prepared.caster, "cast", fail)
    if known:
        set_unanswered(voter, known)
    await voter.post("/vote", data=form("a"))
    assert unanswered(voter) == (known.partition(".")[0] if known else unanswered(voter))
    assert in_doubt((await voter.get("/")).text)


async def test_a_vote_without_an_answer_is_forgotten_with_its_round(voter, prepared):
    sent = await now_of(voter)
    set_unanswered(voter, f"{sent}.{sent}")
    await prepared.sync_poll(MIN_VERSION, Poll(round=2, revision=1, after_version=Version(sent, 7)))
    await prepared.vote.cast_rules()
    async with browser(prepared) as later:
        later.cookies = voter.cookies
        assert not in_doubt((await later.get("/")).text)


async def test_a_receipt_from_before_the_loss_of_the_queue_is_not_counted(voter, prepared):
    await voter.post("/vote", data=form("a"))
    await prepared.admin.delete(prepared.queue.stream_key, prepared.queue.poll_key)
    await prepared.sync_poll(MIN_VERSION, Poll(has_queue=True))
    # The new queue is beyond its id.
    last = await prepared.append_ballot(ago=0)
    await prepared.consumer("me").acknowledge([each.id for each in await _read(prepared)])
    assert (await prepared.progress()).last_delivered == last
    async with browser(prepared) as later:
        later.cookies = voter.cookies
        page = (await later.get("/")).text
        assert "Your vote may be lost" in page
        assert "counted.</" not in page
        assert pressed(page) == []
        assert "choose again" in (await poll_of(later)).text
        await prepared.sync_poll(MIN_VERSION, Poll(state="closed", revision=1))
        await asyncio.sleep(0)
    async with browser(prepared) as closed:
        closed.cookies = voter.cookies
        assert "choose again" not in (await closed.get("/")).text


async def _read(stream):
    return await stream.consumer("me").read(count=10, block=0.01)
