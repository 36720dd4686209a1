"""Exports over HTTP, from a real server and a real Postgres."""

import asyncio
import csv
import io
import json
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps

import httpx
import pytest
from sqlalchemy import text
from support.database import ask, execute, insert_tally, question_of, waits_for_lock
from support.wait import until

from voting.database import engine as database
from voting.database.engine import create_engine
from voting.database.export import BATCH, VotesHidden, VotesNotKept, open_snapshot
from voting.database.poll import confirm_close, declare_final, reopen_poll, start_round
from voting.database.totals import fetch_result
from voting.poll import formats
from voting.poll.ballot import Version
from voting.poll.question import Question
from voting.roles import exports as exports_module
from voting.roles.exports import MAX_CONCURRENT_EXPORTS, Exporter
from voting.roles.result import ResultRole
from voting.settings import ResultSettings, load_settings
from voting.web.server import HTTPServer

pytestmark = pytest.mark.usefixtures("uncached_totals")

DEADLINE = 60
ENVIRON = {"DATABASE_URL": "postgresql://unused"}

QUESTION = Question("قطط", ('Cats, "big"', "Dogs"))

# Far more rows than all buffers between server and client hold.
MANY = 150_000


async def count(engine, *buckets, number=1):
    """Count votes for each option in each ten seconds of a day in 2030, from its beginning."""
    rows = ", ".join(
        f"('2030-01-01 00:00+00'::timestamptz + interval '{10 * place} seconds',"
        f" ARRAY{list(counts)}, 1)"
        for place, counts in enumerate(buckets)
    )
    await insert_tally(engine, f"VALUES {rows}", number)


async def count_many(engine):
    await insert_tally(
        engine,
        "SELECT '2020-01-01 00:00+00'::timestamptz + n * interval '10 seconds', ARRAY[2, 1], 1"
        f" FROM generate_series(1, {MANY}) AS n",
    )


@pytest.fixture(autouse=True)
async def question(engine):
    return await ask(engine, QUESTION)


async def finish(engine):
    result = await fetch_result(engine)
    until = Version(result.poll.round * 10, 0)
    await execute(engine, "UPDATE poll SET state = 'closed'")
    async with engine.connect() as connection:
        await confirm_close(connection, result.totals.at, until)
    assert await declare_final(engine, until)


async def in_pieces(pieces):
    return b"".join([piece async for piece in pieces])


def rows(answer):
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(answer.content.decode(), newline="")))


@asynccontextmanager
async def serving(engine, exports, **environ):
    """Run the role's server; yields a client of it."""
    settings = load_settings(ResultSettings, {**ENVIRON, **environ})
    app = ResultRole(engine, settings, exports=exports).create_app()
    site = HTTPServer(app, "127.0.0.1", 0)
    running = asyncio.create_task(site.run())
    try:
        await until(lambda: site._server.started)
        address = f"http://127.0.0.1:{site._socket.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE) as client:
            yield client
    finally:
        site.stop()
        await running


@pytest.fixture
async def exports(servers, database):
    url = servers.database_url(database, "voting_result")
    engine = create_engine(url, name="voting-export", pool_size=MAX_CONCURRENT_EXPORTS)
    yield engine
    await engine.dispose()


@pytest.fixture
async def client(reader, exports):
    async with serving(reader, exports) as client:
        yield client


async def test_poll_without_votes_has_a_timeline_without_rows(client):
    answer = await client.get("/export.csv")
    assert rows(answer) == [["time", "votes", 'a: Cats, "big"', "b: Dogs"]]
    assert "votes-round-1.csv" in answer.headers["content-disposition"]
    found = (await client.get("/export.json")).json()
    assert (found["votes"], found["timeline"]) == (0, [])


async def test_each_row_has_the_sum_so_far_and_the_last_is_the_total(client, engine):
    await count(engine, (3, 0), (0, 2), (-1, 1))
    assert rows(await client.get("/export.csv"))[1:] == [
        ["2030-01-01T00:00:10+00:00", "3", "3", "0"],
        ["2030-01-01T00:00:20+00:00", "5", "3", "2"],
        ["2030-01-01T00:00:30+00:00", "5", "2", "3"],
    ]


async def test_json_has_the_same_as_csv(client, engine):
    await count(engine, (3, 0), (-1, 1))
    answer = await client.get("/export.json")
    assert answer.headers["content-type"] == "application/json"
    assert "votes-round-1.json" in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = answer.json()
    assert (found["title"], found["round"], found["phase"]) == ("قطط", 1, "open")
    assert [each["votes"] for each in found["options"]] == [2, 1]
    assert found["timeline"] == [
        {"time": "2030-01-01T00:00:10+00:00", "votes": 3, "options": [3, 0]},
        {"time": "2030-01-01T00:00:20+00:00", "votes": 3, "options": [2, 1]},
    ]


@pytest.mark.parametrize("options", [3, 12])
async def test_each_option_is_exported(client, engine, options):
    question = await ask(engine, options)
    last = question.choices[-1]
    rest = [0] * (options - 2)
    await count(engine, (3, *rest, 0), (-1, *rest, 4))
    # Options without votes in a bucket have no row there.
    await execute(engine, f"DELETE FROM tally WHERE choice NOT IN ('a', '{last}')")
    head, *found = rows(await client.get("/export.csv"))
    assert head == ["time", "votes", *(f"{key}: {name}" for key, name in question.options)]
    assert [list(map(int, row[1:])) for row in found] == [[3, 3, *rest, 0], [6, 2, *rest, 4]]
    found = (await client.get("/export.json")).json()
    assert [(each["key"], each["name"]) for each in found["options"]] == [*question.options]
    assert [each["options"] for each in found["timeline"]] == [[3, *rest, 0], [2, *rest, 4]]


async def test_more_rows_than_one_batch_are_exported(client, engine):
    await count(engine, *([(1, 0)] * (BATCH + 1)))
    found = rows(await client.get("/export.csv"))[1:]
    assert [int(row[1]) for row in found] == list(range(1, BATCH + 2))


async def test_totals_and_timeline_are_of_one_snapshot(engine, exports):
    await count(engine, (3, 2))
    async with open_snapshot(exports, "always") as snapshot:
        await execute(engine, "UPDATE tally SET votes = votes + 100 WHERE choice = 'a'")
        form = formats.TIMELINE["json"](snapshot.result)
        found = json.loads(await in_pieces(snapshot.timeline(form)))
    assert found["votes"] == found["timeline"][-1]["votes"] == 5
    assert len(found["timeline"]) == 1
    # The transaction is read-only.
    async with open_snapshot(exports, "always") as snapshot:
        with pytest.raises(database.DATABASE_ERRORS, match="read-only"):
            await snapshot._connection.execute(text("DELETE FROM tally"))


async def test_no_round_is_started_while_votes_are_exported(engine, admin, operator):
    await execute(
        engine,
        "INSERT INTO votes (voter, choice, ms, seq) SELECT gen_random_uuid(), 'a', 1, 0"
        " FROM generate_series(1, 3)",
    )
    await finish(engine)
    async with open_snapshot(engine, "always", votes=True) as snapshot:
        starting = asyncio.create_task(start_round(operator, 1, question_of(3)))
        async with admin.connect() as connection:
            await until(partial(waits_for_lock, connection, "relation IS NOT NULL"))
        form = formats.VOTES["csv"](snapshot.result)
        assert (await in_pieces(snapshot.votes(form))).count(b"\r\na,") == 3
    await starting


async def test_votes_are_exported_neither_while_hidden_nor_of_an_earlier_round(engine, operator):
    async def export(results, error, number=None):
        async with open_snapshot(engine, results, number, votes=True) as snapshot:
            form = formats.VOTES["csv"](snapshot.result)
            with pytest.raises(error):
                await anext(snapshot.votes(form))

    await export("after_close", VotesHidden)
    await export("when_revealed", VotesHidden)
    await finish(engine)
    await export("when_revealed", VotesHidden)
    await start_round(operator, 1, question_of(3))
    await export("always", VotesNotKept, 1)


async def test_final_result_is_exported_as_declared(client, engine):
    await count(engine, (3, 2))
    await finish(engine)
    await execute(engine, "UPDATE tally SET votes = votes + 100 WHERE choice = 'a'")
    found = (await client.get("/export.json")).json()
    assert (found["phase"], found["votes"]) == ("final", 5)
    assert found["final_at"] > found["closed_at"]
    assert found["timeline"][-1] == {"time": found["at"], "votes": 5, "options": [3, 2]}
    assert rows(await client.get("/export.csv"))[-1][1:] == ["5", "3", "2"]


async def test_earlier_round_is_exported_as_last_declared_final(engine, exports, operator):
    await count(engine, (3, 2))
    await finish(engine)
    await reopen_poll(engine, (await fetch_result(engine)).poll)
    await execute(engine, "UPDATE tally SET votes = votes + 5 WHERE choice = 'b'")
    await finish(engine)
    await start_round(operator, 1, question_of(3))
    await count(engine, (50, 50, 10), number=2)
    async with serving(engine, exports, SHOW_RESULTS="after_close") as client:
        # Earlier rounds are closed.
        found = (await client.get("/export.json?round=1")).json()
        assert (found["round"], found["phase"], found["hidden"]) == (1, "final", False)
        assert [each["name"] for each in found["options"]] == list(QUESTION.names)
        assert [each["votes"] for each in found["options"]] == [3, 7]
        assert len(found["timeline"]) == 1
        assert rows(await client.get("/export.csv?round=1")) == [
            ["time", "votes", 'a: Cats, "big"', "b: Dogs"],
            ["2030-01-01T00:00:10+00:00", "10", "3", "7"],
        ]
        for path in ("/export.csv", "/export.csv?round=2"):
            assert rows(await client.get(path)) == [
                ["time", "votes"],
                ["2030-01-01T00:00:10+00:00", "110"],
            ]
    async with open_snapshot(exports, "always", 1) as snapshot:
        assert snapshot.result.timeline == ()  # the rows are read instead


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *((f"round={number}", 404) for number in ("0", "2", "999999999", "9" * 5000)),
        *((f"round={text}", 400) for text in ("", "x", "-1", "+1", "1.0", "%C2%B2", "1&round=1")),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "json"])
async def test_missing_round_is_answered_with_an_error_page(client, query, status, suffix):
    answer = await client.get(f"/export.{suffix}?{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'role="alert"' in answer.text
    assert (await client.get(f"/export.{suffix}")).status_code == 200


async def test_request_beyond_the_limit_gets_503_and_totals_are_still_served(client, engine):
    await count_many(engine)
    assert (await client.get("/api/tally")).json()["votes"] == 3 * MANY
    async with client.stream("GET", "/export.csv") as one, client.stream("GET", "/export.csv"):
        busy = await client.get("/export.csv")
        assert busy.status_code == 503
        assert int(busy.headers["retry-after"]) > 0
        assert "Others are downloading the result right now." in busy.text
        assert (await client.get("/api/tally")).json()["votes"] == 3 * MANY
        assert not (await client.get("/api/tally")).json()["stale"]
        assert len([line async for line in one.aiter_lines()]) == MANY + 1
        assert (await client.get("/export.csv?round=2")).status_code == 404


async def test_a_client_that_has_an_export_may_request_the_next(engine, exports, monkeypatch):
    statuses = []
    get = Exporter.get

    @wraps(get)
    async def get_and_ask_again(self, request):
        respond = await get(self, request)

        async def responder(scope, receive, send):
            async def send_and_ask_again(message):
                # The client has the end of the document from here on.
                await send(message)
                if not message.get("more_body", True) and len(statuses) <= MAX_CONCURRENT_EXPORTS:
                    statuses.append((await client.get("/export.csv")).status_code)

            await respond(scope, receive, send_and_ask_again)

        return responder

    monkeypatch.setattr(Exporter, "get", get_and_ask_again)
    async with serving(engine, exports) as client:
        assert (await client.get("/export.csv")).status_code == 200
        await until(lambda: len(statuses) > MAX_CONCURRENT_EXPORTS)
    assert set(statuses) == {200}


async def test_missing_database_is_answered_with_an_error_page(tmp_path):
    engine = create_engine(f"postgresql://postgres@/postgres?host={tmp_path}", name="tests")
    async with serving(engine, engine) as client:
        answer = await client.get("/export.csv")
    assert answer.status_code == 503
    assert "Please try again in a few seconds." in answer.text
    assert "retry-after" in answer.headers
    await engine.dispose()


async def sessions(engine):
    """Return the sessions of exports that hold a transaction."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'voting-export'"
    query += " AND xact_start IS NOT NULL AND datname = current_database()"
    return [row.pid for row in await execute(engine, query)]


async def none_open(engine):
    return not await sessions(engine)


async def accepted(client):
    """Return whether another export may start: a transaction ends just before its slot is free."""
    return (await client.get("/export.csv?round=2")).status_code == 404


@asynccontextmanager
async def idler(client):
    """A client that requests an export and does not read it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", client.base_url.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    writer.write(b"GET /export.csv HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        await reader.readuntil(b"\r\n\r\n")
        yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def expect_incomplete(reader):
    """Read the rest: the connection ends without the empty chunk that ends a body."""
    async with asyncio.timeout(DEADLINE):
        body = await reader.read(-1)
    assert body
    assert not body.endswith(b"\r\n0\r\n\r\n")


async def test_failure_midway_breaks_the_response(client, engine, admin):
    await count_many(engine)
    async with client.stream("GET", "/export.json") as answer:
        assert answer.status_code == 200
        await until(partial(sessions, admin))
        [session] = await sessions(admin)
        await execute(admin, f"SELECT pg_terminate_backend({session})")
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await answer.aread()
    assert len(rows(await client.get("/export.csv"))) == MANY + 1


async def test_postgres_ends_the_transaction_of_a_client_that_does_not_read(
    engine, admin, database_url, monkeypatch
):
    monkeypatch.setitem(database.SESSION, "idle_in_transaction_session_timeout", "2s")
    monkeypatch.setattr(exports_module, "SEND_TIMEOUT", DEADLINE)
    exports = create_engine(database_url, name="voting-export", pool_size=MAX_CONCURRENT_EXPORTS)
    await count_many(engine)
    async with serving(engine, exports) as client:
        async with idler(client) as reader:
            await until(partial(sessions, admin))
            await until(partial(none_open, admin))
            await expect_incomplete(reader)
        await until(partial(accepted, client))
        for _ in range(MAX_CONCURRENT_EXPORTS):
            assert await accepted(client)
        assert len(rows(await client.get("/export.csv"))) == MANY + 1
    await exports.dispose()


@pytest.mark.parametrize("limit", ["SEND_TIMEOUT", "EXPORT_TIMEOUT"])
async def test_an_export_to_a_client_that_does_not_read_is_ended(
    client, engine, admin, monkeypatch, limit
):
    for each in ("SEND_TIMEOUT", "EXPORT_TIMEOUT"):
        monkeypatch.setattr(exports_module, each, 0.5 if each == limit else 10 * DEADLINE)
    await count_many(engine)
    async with idler(client) as one, idler(client) as other:
        await until(partial(none_open, admin))
        await until(partial(accepted, client))
        await expect_incomplete(one)
        await expect_incomplete(other)


async def test_nothing_more_is_read_for_a_client_that_left(client, engine, admin, monkeypatch):
    read, body = [], formats.Csv.body
    monkeypatch.setattr(
        formats.Csv, "body", lambda self, rows: read.append(rows) or body(self, rows)
    )
    await count_many(engine)
    async with idler(client), idler(client):
        await until(partial(sessions, admin))
        assert (await client.get("/export.csv")).status_code == 503
    await until(partial(none_open, admin))
    await until(partial(accepted, client))
    assert len(read) < 2 * MANY / BATCH
