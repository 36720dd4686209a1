"""The admin role with real servers, and the rights of its users."""

import asyncio
import html
import re
import socket
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from math import inf

import httpx
import pytest
from support.app import RoleProcess
from support.asgi import client_of
from support.database import execute, fail_to_connect
from support.forms import read_forms
from support.proxy import Proxy
from support.wait import until
from support.workers import working

from voting.database.questions import add_questions, fetch_questions
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.lifecycle import Phase
from voting.poll.question import Question
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState
from voting.reconcile.poll import reconcile
from voting.roles import admin as admin_module
from voting.roles import overview
from voting.roles.admin import AdminRole
from voting.roles.maintenance import Timing
from voting.settings import AdminSettings, load_settings
from voting.web import cache

TEA = Question("Tea or coffee?", ("Tea", "Coffee"))
LUNCH = Question("<Where> for lunch?", ("Here", "There", "Nowhere"))
GOOD = Question("Was it good?", ("Yes", "No"))

QUICK = Timing(maintenance_interval=0.05, finalize_interval=0.05)


@pytest.fixture(autouse=True)
def _uncached(monkeypatch):
    """Have each request ask the servers."""
    monkeypatch.setattr(overview, "TTL", 0)


async def test_a_role_that_is_there_before_the_queue_waits_without_a_warning(
    stream, engine, caplog
):
    started = overview.Overview(stream, engine)
    assert not await started.ready()
    assert (started.queue_away, caplog.messages) == (None, [])
    await reconcile(engine, stream)
    assert await started.ready()
    await stream.admin.delete(stream.queue.stream_key)
    assert not await started.ready()
    assert started.queue_away is not None


@pytest.fixture
async def poll(engine, stream):
    """The poll, with a queue; without a worker nothing is counted."""
    await reconcile(engine, stream)
    return stream


@pytest.fixture
def leading(servers, poll, operator):
    """Return a context with a client of a new admin role."""

    @asynccontextmanager
    async def lead(token="none", redis_url=None, **environ):
        queue = Queue(connect(redis_url or servers.redis_url("admin")), name=poll.queue.name)
        urls = {"REDIS_URL": "redis://unused", "DATABASE_URL": "postgresql://unused"}
        settings = load_settings(AdminSettings, {**urls, "ADMIN_TOKEN": token, **environ})
        role = AdminRole(QueueState(queue), operator, settings, audits=operator)
        async with client_of(role.create_app(), "http://localhost:8082") as client:
            yield client
        await role.close()
        await queue.close()

    return lead


@pytest.fixture
async def client(leading):
    async with leading() as client:
        yield client


@pytest.fixture
async def counting(poll, engine):
    async with working(poll.queue, engine, timing=QUICK):
        yield


def fields(page, action="/"):
    """Return the hidden fields of the page's first form with that action."""
    return next(form.fields for form in read_forms(page) if form.action == action)


def offered(page):
    """Return the changes of the poll that the page has a button for."""
    buttons = [each for form in read_forms(page) if form.action == "/" for each in form.buttons]
    return [value for name, value in buttons if name == "do"]


def texts(page):
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def confirmation(page):
    """Return the part of a page that asks to confirm."""
    [section] = re.findall(r'<section id="confirm".*?</section>', page, re.DOTALL)
    return section


async def press(client, do, page=None, **more):
    """Press a button of a page, by default of the present one."""
    page = page or (await client.get("/")).text
    return await client.post("/", data={**fields(page), "do": do, **more})


async def confirm(client, do):
    """Press a button and then the one that confirms it. Returns both pages."""
    asked = await press(client, do)
    section = confirmation(asked.text)
    return texts(section), await client.post("/", data=fields(section))


async def phase(engine):
    return (await fetch_result(engine)).poll.phase


def asks_tea(engine):
    async def asks():
        return (await fetch_result(engine)).poll.question == TEA

    return asks


async def until_final(engine):
    async def is_final():
        return await phase(engine) is Phase.FINAL

    await until(is_final)


async def test_an_open_poll_can_be_closed_and_opened_again(client, engine):
    page = (await client.get("/")).text
    assert "Cats or Dogs?" in page
    assert offered(page) == ["close", "close-1", "close-5", "close-10", "close-at"]
    assert (await press(client, "close")).headers["location"] == "/"
    assert await phase(engine) is Phase.COUNTING
    assert offered((await client.get("/")).text) == ["reopen"]
    await press(client, "reopen")
    assert await phase(engine) is Phase.OPEN


async def test_a_poll_closes_in_some_minutes_and_can_be_kept_open(client, engine):
    before = datetime.now(UTC)
    await press(client, "close-5")
    at = (await fetch_result(engine)).poll.closes_at
    assert timedelta() <= at - before - timedelta(minutes=5) < timedelta(seconds=20)
    page = (await client.get("/")).text
    assert "Voting closes" in page
    assert "keep" in offered(page)
    await press(client, "keep", page)
    assert (await fetch_result(engine)).poll.closes_at is None


async def test_what_is_not_a_time_in_the_future_changes_nothing(client, engine):
    response = await press(client, "close-at", time="25:00")
    assert response.status_code == 422
    assert "not a time in the future" in response.text
    assert (await fetch_result(engine)).poll.revision == 0


@pytest.mark.usefixtures("counting")
async def test_what_loses_something_asks_first(client, engine, poll):
    await poll.cast_many(3)
    await press(client, "close")
    await until_final(engine)
    page = (await client.get("/")).text
    assert offered(page) == ["again", "reopen"]
    said, _ = await confirm(client, "again")
    assert "deletes the 3 votes of round 1" in said
    assert (await fetch_result(engine)).poll.round == 2
    await press(client, "close")
    await until_final(engine)
    assert (await press(client, "reopen")).status_code == 200
    assert await phase(engine) is Phase.FINAL
    said, response = await confirm(client, "reopen")
    assert "revokes its final result" in said
    assert response.status_code == 303
    assert await phase(engine) is Phase.OPEN
    assert [each.revoked for each in await fetch_final_results(engine)] == [False, True]


@pytest.mark.usefixtures("counting")
async def test_next_closes_an_open_round_counts_it_and_asks(client, engine, operator, poll):
    await add_questions(operator, [TEA, LUNCH])
    await poll.cast_many(2)
    said, response = await confirm(client, "next")
    assert "It is open: it is closed now" in said
    assert response.status_code == 303

    await until(asks_tea(engine))
    [final] = await fetch_final_results(engine)
    assert sum(final.counts) == 2
    assert [each.question for each in await fetch_questions(operator)] == [LUNCH]


async def test_while_a_round_is_counted_the_page_says_so_and_next_is_not_offered(
    client, engine, operator, poll
):
    await add_questions(operator, [TEA])
    await poll.cast_many(2)
    await confirm(client, "next")
    page = (await client.get("/")).text
    assert "Next is “Tea or coffee?”" in page
    assert offered(page) == ["reopen"]
    await until(asking_says(client, "2 left to count"))
    await press(client, "reopen")
    await until(asking_says(client, "The next question was not asked."))
    assert await phase(engine) is Phase.OPEN
    assert len(await fetch_questions(operator)) == 1


def asking_says(client, words):
    async def says():
        return words in texts((await client.get("/live")).text)

    return says


@pytest.fixture
async def network(servers, tmp_path):
    """The way from a role to Redis."""
    async with Proxy(servers.folders.run / "valkey.sock", tmp_path / "redis.sock") as network:
        yield network


@pytest.fixture
def redis_url(servers, tmp_path):
    """The address of `network`."""
    url = servers.redis_url("admin")
    return url.replace(str(servers.folders.run / "valkey.sock"), str(tmp_path / "redis.sock"))


async def test_next_is_asked_even_if_redis_is_away_when_the_round_is_closed(
    leading, engine, operator, poll, network, redis_url
):
    await add_questions(operator, [TEA])
    async with leading(redis_url=redis_url) as client:
        with network.cut():
            _, response = await confirm(client, "next")
            assert response.status_code == 303
            assert await phase(engine) is Phase.COUNTING
            assert (await poll.cast_rules()).open
            await until(asking_says(client, "Next is “Tea or coffee?”"))
        async with working(poll.queue, engine, timing=QUICK):
            await until(asks_tea(engine))
        assert "not asked" not in (await client.get("/live")).text


async def test_a_question_that_redis_does_not_have_yet_is_not_called_unasked(
    leading, engine, operator, network, redis_url, monkeypatch
):
    start_round, away = admin_module.start_round, ExitStack()

    async def start_and_cut(*given, **named):
        await start_round(*given, **named)
        away.enter_context(network.cut())

    monkeypatch.setattr(admin_module, "start_round", start_and_cut)
    await add_questions(operator, [TEA])
    async with leading(redis_url=redis_url) as client:
        with away:
            await confirm(client, "next")
            await until(asking_says(client, "That may not be done everywhere yet."))
            assert "not asked" not in (await client.get("/live")).text
    assert await asks_tea(engine)()


async def test_a_role_that_ends_meanwhile_leaves_a_closed_poll_and_the_question(
    leading, engine, operator, poll
):
    await add_questions(operator, [TEA])
    await poll.cast_many(1)
    async with leading() as client:
        await confirm(client, "next")
    assert await phase(engine) is Phase.COUNTING
    async with leading() as client:
        assert offered((await client.get("/")).text) == ["next", "reopen"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("close", "Voting is closed now."),
        ("close-5", "Voting is open; its time to close has changed."),
    ],
)
async def test_a_page_that_shows_an_earlier_state_changes_nothing(client, engine, change, said):
    page = (await client.get("/")).text
    await press(client, change)
    revision = (await fetch_result(engine)).poll.revision
    response = await press(client, "close-10", page)
    assert response.status_code == 409
    assert (
        f"This page was out of date. {said} Nothing was changed. It shows the present state now."
        in texts(response.text)
    )
    assert (await fetch_result(engine)).poll.revision == revision


async def test_two_at_once_do_nothing_twice(leading, engine, operator):
    await add_questions(operator, [TEA, LUNCH])
    async with leading() as one, leading() as other:
        asked = [await press(each, "next") for each in (one, other)]
        forms = [fields(confirmation(each.text)) for each in asked]
        answers = await asyncio.gather(
            *(each.post("/", data=form) for each, form in zip((one, other), forms, strict=True))
        )
        assert sorted(each.status_code for each in answers) == [303, 409]
        await until(asks_tea(engine))
    assert [each.question for each in await fetch_questions(operator)] == [LUNCH]


async def test_next_asks_only_the_question_that_the_page_named(client, engine, operator):
    await add_questions(operator, [TEA, LUNCH])
    page = (await client.get("/")).text
    await execute(operator, "UPDATE questions SET position = 9 WHERE title LIKE 'Tea%'")
    response = await press(client, "next", page)
    assert response.status_code == 409
    assert "The prepared questions were changed meanwhile." in response.text
    assert await phase(engine) is Phase.OPEN


@pytest.mark.usefixtures("counting")
async def test_hidden_totals_are_in_no_response_but_after_a_click(leading, poll, engine):
    await poll.cast_many(7)
    async with leading(SHOW_RESULTS="when_revealed") as client:
        await until(asking_says(client, "7 have voted"))
        for path in ("/", "/live", "/questions", "/rounds"):
            page = (await client.get(path)).text
            assert "7 votes" not in page
            assert "100.0" not in page
        page = (await client.get("/?totals=1")).text
        assert "7 votes" in page
        assert 'hx-get="/live?totals=1"' in page
        assert "7 votes" in (await client.get("/live?totals=1")).text
        said, _ = await confirm(client, "reveal")
        assert "Show the totals of round 1 to everybody? It can't be undone." in said
        page = (await client.get("/")).text
        assert "7 votes" in page
        assert "reveal" not in offered(page)
    assert (await fetch_result(engine)).poll.revealed


@pytest.mark.usefixtures("counting")
async def test_an_earlier_round_can_be_read_and_revealed(leading, poll, engine, operator):
    await add_questions(operator, [TEA])
    await poll.cast_many(7)
    async with leading(SHOW_RESULTS="when_revealed") as client:
        await until(asking_says(client, "7 have voted"))
        await confirm(client, "next")
        await until(asks_tea(engine))
        page = (await client.get("/rounds")).text
        assert "Cats or Dogs? Round 1 · 7 voters Reveal Show them here" in texts(page)
        assert "100.0" not in page
        assert "100.0" in (await client.get("/rounds?totals=1")).text

        page = (await client.get("/")).text
        asked = await press(client, "reveal", page, round=1)
        section = confirmation(asked.text)
        assert "Show the totals of round 1 to everybody?" in texts(section)
        await client.post("/", data=fields(section))
        assert "100.0" in (await client.get("/rounds")).text
        assert (await press(client, "reveal", page, round=1)).status_code == 409
        assert (await press(client, "reveal", page, round=3)).status_code == 409
    assert not (await fetch_result(engine)).poll.revealed


async def test_the_queue_is_shown_with_its_age_and_the_voters_who_wait(client, poll):
    await poll.append_ballot(ago=30)
    await poll.cast_many(2)
    page = texts((await client.get("/live")).text)
    assert "0 have voted" in page
    assert "3 wait to be counted" in page
    assert re.search(
        r"3 voters have not been told yet that their votes are counted, the first for 3\d s\.", page
    )


async def write(client, do="add", question=TEA, **more):
    page = (await client.get("/")).text
    data = {**fields(page, "/questions"), "do": do, "title": question.title, **more}
    return await client.post("/questions", data={**data, "names": "\n".join(question.names)})


async def test_questions_are_written_ordered_changed_and_deleted(client, operator):
    async def stored():
        return [each.question for each in await fetch_questions(operator)]

    for each in (TEA, LUNCH):
        assert (await write(client, question=each)).status_code == 303
    assert await stored() == [TEA, LUNCH]
    first, second = await fetch_questions(operator)
    await write(client, "down", id=first.id)
    assert await stored() == [LUNCH, TEA]
    await write(client, "up", id=first.id)
    page = (await client.get(f"/?edit={first.id}")).text
    assert 'value="Tea or coffee?"' in page
    assert ">Tea\nCoffee</textarea>" in page
    better = Question("Tea, coffee or water?", ("Tea", "Coffee", "Water"))
    await write(client, "change", better, id=first.id, revision=first.revision)
    assert await stored() == [better, LUNCH]
    page = (await write(client, "remove", id=second.id)).text
    assert "Delete the prepared question “<Where> for lunch?”?" in texts(page)
    await client.post("/questions", data=fields(confirmation(page), "/questions"))
    assert await stored() == [better]


async def test_a_question_that_was_changed_meanwhile_is_not_replaced(client, operator):
    await add_questions(operator, [TEA])
    [seen] = await fetch_questions(operator)
    await write(client, "change", LUNCH, id=seen.id, revision=seen.revision)
    response = await write(client, "change", TEA, id=seen.id, revision=seen.revision)
    assert response.status_code == 409
    assert 'value="Tea or coffee?"' in response.text  # what was written is not lost
    assert [each.question for each in await fetch_questions(operator)] == [LUNCH]


@pytest.mark.parametrize("change", ["up", "down", "remove"])
@pytest.mark.parametrize("other", ["moved", "removed"])
async def test_a_list_that_another_admin_has_changed_is_not_changed_by_place(
    client, operator, change, other
):
    await add_questions(operator, [TEA, LUNCH, GOOD])
    _, second, third = await fetch_questions(operator)
    page = (await client.get("/")).text
    form = fields(page, "/questions")
    if other == "moved":
        await client.post("/questions", data={**form, "do": "up", "id": third.id})
    else:
        asked = await client.post("/questions", data={**form, "do": "remove", "id": second.id})
        await client.post("/questions", data=fields(confirmation(asked.text), "/questions"))
    found = await fetch_questions(operator)
    response = await client.post("/questions", data={**form, "do": change, "id": second.id})
    assert response.status_code == 409
    assert "The prepared questions were changed meanwhile." in response.text
    assert await fetch_questions(operator) == found


async def test_two_who_move_at_once_move_once(client, operator):
    await add_questions(operator, [TEA, LUNCH, GOOD])
    form = fields((await client.get("/")).text, "/questions")
    _, _, third = await fetch_questions(operator)
    moves = [client.post("/questions", data={**form, "do": "up", "id": third.id}) for _ in "ab"]
    assert sorted(each.status_code for each in await asyncio.gather(*moves)) == [303, 409]
    assert [each.question for each in await fetch_questions(operator)] == [TEA, GOOD, LUNCH]


async def test_a_question_that_is_sent_twice_is_added_once(client, operator):
    form = fields((await client.get("/?write")).text, "/questions")
    data = {**form, "do": "add", "title": TEA.title, "names": "\n".join(TEA.names)}
    for each in await asyncio.gather(*(client.post("/questions", data=data) for _ in "ab")):
        assert each.status_code == 303
    assert len(await fetch_questions(operator)) == 1
    await client.post("/questions", data={**data, "title": LUNCH.title})
    await write(client, question=TEA)
    titles = [each.question.title for each in await fetch_questions(operator)]
    assert titles == [TEA.title, LUNCH.title, TEA.title]


async def test_an_invalid_question_is_shown_with_what_is_wrong(client, operator):
    response = await write(client, question=Question("Really?", ("Yes", "Yes")))
    assert response.status_code == 422
    assert "option 2 is the same as option 1" in texts(response.text)
    assert ">Yes\nYes</textarea>" in response.text
    assert await fetch_questions(operator) == []


async def test_the_longest_question_fits_the_form(client, operator):
    longest = Question(
        "\U0001f408" * 200, tuple("\U0001f415" * 59 + letter for letter in "abcdefghijkl")
    )
    assert (await write(client, question=longest)).status_code == 303
    [stored] = await fetch_questions(operator)
    assert stored.question == longest


@pytest.mark.usefixtures("counting")
async def test_an_audit_answers_in_words(client, engine, poll):
    await poll.cast_many(4)
    await until(asking_says(client, "4 have voted"))
    page = (await client.get("/")).text
    response = await client.post("/audit", data=fields(page, "/audit"))
    assert "Queue, votes and totals agree: 4 votes" in texts(response.text)
    await execute(engine, "UPDATE tally SET votes = votes + 1")
    response = await client.post("/audit", data=fields(page, "/audit"))
    assert "the tally is not the sum of the votes" in texts(response.text)


async def test_audits_that_are_asked_for_at_once_are_one(client, monkeypatch):
    started, end = [], asyncio.Event()
    audit = admin_module.audit

    async def slow(*servers):
        started.append(1)
        await end.wait()
        return await audit(*servers)

    monkeypatch.setattr(admin_module, "audit", slow)
    page = (await client.get("/")).text
    form = fields(page, "/audit")
    both = [asyncio.create_task(client.post("/audit", data=form)) for _ in range(2)]
    await until(lambda: started)
    await client.get("/")  # the page goes on meanwhile
    end.set()
    for each in await asyncio.gather(*both):
        assert "totals agree" in texts(each.text)
    assert len(started) == 1


async def test_without_the_database_the_page_says_so_and_changes_nothing(client, operator, engine):
    page = (await client.get("/")).text
    with pytest.MonkeyPatch.context() as patch:
        fail_to_connect(patch, operator)
        away = await client.get("/live")
        assert "The database can't be reached" in texts(away.text)
        assert "Cats or Dogs?" in away.text
        response = await press(client, "close", page)
        assert response.status_code == 503
        assert "The database can't be reached. Nothing was changed." in texts(response.text)
    assert await phase(engine) is Phase.OPEN
    await until(is_back(client))


def is_back(client):
    async def back():
        return "can't" not in texts((await client.get("/live")).text)

    return back


@pytest.mark.parametrize("change", ["add_questions", "reveal_results"])
async def test_a_change_whose_answer_is_lost_is_not_called_undone(leading, monkeypatch, change):
    apply = getattr(admin_module, change)

    async def lose_the_answer(*given, **named):
        await apply(*given, **named)
        raise TimeoutError

    monkeypatch.setattr(admin_module, change, lose_the_answer)
    async with leading(SHOW_RESULTS="when_revealed") as client:
        if change == "add_questions":
            response = await write(client)
        else:
            _, response = await confirm(client, "reveal")
    assert response.status_code == 503
    assert "That may not be done everywhere yet." in texts(response.text)
    assert "Nothing was changed" not in response.text


async def test_without_the_queue_the_page_says_so(client, poll):
    await poll.admin.delete(poll.queue.stream_key)
    page = texts((await client.get("/live")).text)
    assert "This page can't reach the queue" in page
    assert re.search(r"Since \d\d:\d\d:\d\d UTC", page)


async def test_a_queue_is_called_away_once_it_was_slow_for_a_while(
    leading, network, redis_url, monkeypatch
):
    monkeypatch.setattr(overview, "PATIENCE", inf)
    monkeypatch.setattr(cache, "REFRESH_TIMEOUT", 0.05)
    async with leading(redis_url=redis_url) as client:
        await until(asking_says(client, "0 wait to be counted"))
        with network.back.held():
            for _ in range(5):
                page = texts((await client.get("/live")).text)
                assert "can't reach" not in page
                assert "0 wait to be counted" in page
            monkeypatch.setattr(overview, "PATIENCE", 0)
            await until(asking_says(client, "can't reach the queue"))
        await until(is_back(client))


async def test_an_open_poll_of_a_restored_database_can_be_kept_open(client, poll, engine):
    await poll.admin.hset(poll.queue.poll_key, mapping={"revision": 7, "revised": 0})
    page = (await client.get("/")).text
    assert "Redis knows a later state of the poll" in page
    assert offered(page)[0] == "keep"
    assert (await press(client, "keep")).status_code == 303
    page = (await client.get("/")).text
    assert "later state" not in page
    assert "keep" not in offered(page)
    assert (await fetch_result(engine)).poll.revision == 8
    assert (await poll.cast_rules()).open


async def test_forms_need_their_value(client, engine):
    page = (await client.get("/")).text
    own = {**fields(page), "do": "close"}
    without = {name: value for name, value in own.items() if name != "_csrf_token"}
    for form in (without, {**own, "_csrf_token": ""}, {**own, "_csrf_token": "0" * 128}):
        for path in ("/", "/questions", "/audit"):
            response = await client.post(path, data=form)
            assert response.status_code == 403
            assert "This form is out of date." in response.text
    client.cookies.clear()
    assert (await client.post("/", data=own)).status_code == 403
    assert (await fetch_result(engine)).poll.revision == 0


async def test_a_page_of_before_a_restart_is_refused_and_the_next_one_works(leading, engine):
    async with leading() as before:
        page = (await before.get("/")).text
    async with leading() as after:
        after.cookies = before.cookies
        assert (await press(after, "close", page)).status_code == 403
        assert (await press(after, "close")).status_code == 303
    assert await phase(engine) is Phase.COUNTING


async def test_cookies_of_earlier_starts_do_not_pile_up(leading):
    cookies = httpx.Cookies({"form-0123abcd-8092": "of another port", "admin-8082": "token"})
    for _ in range(12):
        async with leading() as client:
            client.cookies = cookies
            page = (await client.get("/")).text
            assert (await client.post("/questions", data=fields(page))).status_code == 400
            cookies = client.cookies
        assert len(cookies) < 12
    assert {"form-0123abcd-8092", "admin-8082"} < set(cookies)


async def test_no_response_is_stored_and_each_is_protected(leading):
    async with leading("a-secret-of-some-length") as client:
        refused = await client.get("/")
        assert refused.status_code == 403
        opened = await client.get("/?token=a-secret-of-some-length")
        page = await client.get("/")
        assert page.status_code == 200
        for response in (refused, opened, page, await client.get("/live")):
            assert response.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in response.headers["content-security-policy"]
        for cookie in page.headers.get_list("set-cookie"):
            assert "HttpOnly" in cookie
            assert "samesite=lax" in cookie.lower()
        assert "Everyone with the address that has the token" in texts(page.text)
    async with leading("none") as client:
        assert "everyone who can connect to it can lead" in texts((await client.get("/")).text)


async def test_viewers_share_each_query(leading, monkeypatch):
    asked = []
    fetch = overview.fetch_result

    async def noting(engine):
        asked.append(1)
        return await fetch(engine)

    monkeypatch.setattr(overview, "fetch_result", noting)
    monkeypatch.setattr(overview, "TTL", 60)
    async with leading() as client:
        assert asked == []
        await asyncio.gather(*(client.get("/live") for _ in range(10)))
    assert asked == [1]


def own_address() -> str:
    """Return an address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no other address than loopback")
        return str(probe.getsockname()[0])


def test_the_page_listens_on_loopback_only_whatever_host_says(servers, database_url):
    address = own_address()
    role = RoleProcess(
        "admin",
        HOST="0.0.0.0",
        REDIS_URL=servers.redis_url("admin"),
        DATABASE_URL=database_url,
        ADMIN_TOKEN="none",
    )
    try:
        role.alive()
        assert httpx.get(f"http://{address}:{role.ops_port}/healthz").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{role.port}/").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}:{role.port}/")
    finally:
        role.close()
