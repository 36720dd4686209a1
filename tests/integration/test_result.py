import asyncio
import re
from datetime import UTC, datetime
from functools import partial
from math import isnan
from uuid import uuid4

import pytest
from support.asgi import client_of
from support.database import ask, execute, fail_to_connect, insert_tally, question_of
from support.wait import until

from voting.database import counting, totals
from voting.database.engine import create_engine
from voting.database.poll import confirm_close, declare_final, reopen_poll, start_round
from voting.database.totals import TIMELINE_POINTS
from voting.poll.ballot import QueuedBallot, Version
from voting.poll.question import CHOICES, Question
from voting.roles import result as result_module
from voting.roles.result import ResultRole
from voting.settings import ResultSettings, load_settings
from voting.telemetry import metrics

pytestmark = pytest.mark.usefixtures("uncached_totals")

CLOSED_AT = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
UNTIL = Version(9, 0)

ENVIRON = {"DATABASE_URL": "postgresql://unused"}

QUESTION = Question("Pets", ("<Cats>", "Dogs"))


def create_role(engine, **environ):
    settings = load_settings(ResultSettings, {**ENVIRON, **environ})
    return ResultRole(engine, settings, exports=engine)


def viewer(engine, **environ):
    app = create_role(engine, **environ).create_app()
    return client_of(app, "http://result.localhost")


@pytest.fixture
async def client(reader):
    async with viewer(reader) as client:
        yield client


@pytest.fixture(autouse=True)
async def question(engine):
    return await ask(engine, QUESTION)


async def count(engine, *counts):
    choices = [choice for choice, n in zip(CHOICES, counts, strict=False) for _ in range(n)]
    await counting.count(
        engine,
        [QueuedBallot(1, seq, uuid4().hex, each) for seq, each in enumerate(choices)],
    )


async def close(engine, *, final=True):
    """Close the poll after all that was counted here."""
    await execute(engine, "UPDATE poll SET state = 'closed'")
    async with engine.connect() as connection:
        await confirm_close(connection, CLOSED_AT, UNTIL)
    if final:
        assert await declare_final(engine, UNTIL)


def measured(name, **labels):
    return metrics.OF_ROLE["result"].get_sample_value(f"voting_{name}", labels)


@pytest.fixture
def asked(monkeypatch):
    """Each query for totals: whether it asks for the timeline too."""
    found, fetch_result = [], totals.fetch_result

    async def noting(engine, *, timeline=False):
        found.append(timeline)
        return await fetch_result(engine, timeline=timeline)

    monkeypatch.setattr(totals, "fetch_result", noting)
    return found


def trigger(page):
    [found] = re.findall(r'hx-trigger="([^"]*)"', page)
    return found


def shares(page):
    return re.findall(r'class="share">([^<]*)<', page)


async def test_without_votes_there_are_no_percentages(client):
    page = (await client.get("/")).text
    assert "No votes yet" in page
    assert "%" not in "".join(shares(page))


async def test_totals_are_shown_as_numbers_and_percentages(client, engine):
    await count(engine, 2, 1)
    page = (await client.get("/")).text
    assert [each.replace("&nbsp;", " ") for each in shares(page)] == ["66.7 %", "33.3 %"]
    assert "2 votes" in page
    assert "1 vote<" in page
    assert "3 voters" in page
    assert "&lt;Cats&gt;" in page


async def test_tally_returns_the_same_part_as_the_page(client, engine):
    await count(engine, 1, 0)
    part = (await client.get("/tally", headers={"HX-Request": "true"})).text.strip()
    assert part.startswith("<section")
    assert part in (await client.get("/")).text


async def test_the_polled_part_is_short_with_long_option_names(engine, reader):
    await ask(engine, Question("Pets", ("🐈" * 60, "🐕" * 60)))
    await count(engine, 2, 1)
    async with viewer(reader) as client:
        assert len((await client.get("/tally")).content) < 2200  # with the title


async def test_an_unchanged_tally_is_not_sent_again(client, engine):
    await count(engine, 1, 0)
    first = await client.get("/tally")
    assert "max-age=0" in first.headers["cache-control"]
    assert "set-cookie" not in first.headers
    again = await client.get("/tally", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    await count(engine, 0, 1)
    changed = await client.get("/tally", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200


async def test_the_api_has_names_and_votes(client, engine):
    await count(engine, 2, 1)
    answer = (await client.get("/api/tally")).json()
    assert answer.pop("at").startswith("20")
    assert answer == {
        "title": "Pets",
        "options": [
            {"key": "a", "name": "<Cats>", "votes": 2},
            {"key": "b", "name": "Dogs", "votes": 1},
        ],
        "votes": 3,
        "stale": False,
        "round": 1,
        "phase": "open",
        "hidden": False,
        "closes_at": None,
        "closed_at": None,
        "final_at": None,
        "queue_lost_at": None,
    }


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://slides.example.com", "https://slides.example.com"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://example.com", None),
        (None, None),
    ],
)
async def test_pages_that_may_embed_the_result_may_read_it(reader, origin, allowed):
    embed_in = "https://slides.example.com, http://localhost:8000/"
    headers = {"Origin": origin} if origin else {}
    async with viewer(reader, EMBED_IN=embed_in) as client:
        answer = await client.get("/api/tally", headers=headers)
        screen = await client.get("/screen")
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert answer.headers["vary"] == "Origin"
    _, _, ancestors = screen.headers["content-security-policy"].rpartition("frame-ancestors ")
    assert ancestors == "https://slides.example.com http://localhost:8000"


async def test_other_pages_may_not_read_the_result(client):
    answer = await client.get("/api/tally", headers={"Origin": "https://slides.example.com"})
    assert answer.status_code == 200
    assert not {"vary", "access-control-allow-origin"} & set(answer.headers)


async def test_while_postgres_is_unavailable_the_last_totals_are_shown_with_their_time(
    client, engine, monkeypatch
):
    await count(engine, 1, 0)
    at = (await client.get("/api/tally")).json()["at"]
    fresh = (await client.get("/tally")).headers["etag"]

    with monkeypatch.context() as patch:
        fail_to_connect(patch, engine)
        page = (await client.get("/tally", headers={"If-None-Match": fresh})).text
        answer = (await client.get("/api/tally")).json()
    assert "1 vote<" in page
    assert re.search(
        r'Updated <time datetime="[^"]+"[^>]*>on \d+ \w+ \d{4} at \d\d:\d\d:\d\d UTC</time>', page
    )
    assert (answer["stale"], answer["votes"]) == (True, 1)
    assert answer["at"] >= at
    again = partial(client.get, "/api/tally")
    await until(again, check=lambda response: not response.json()["stale"])
    assert "can't be asked" not in (await client.get("/tally")).text


async def test_totals_that_could_not_be_read_are_not_zero(tmp_path):
    engine = create_engine(f"postgresql://postgres@/postgres?host={tmp_path}", name="tests")
    async with viewer(engine) as client:
        page = await client.get("/")
        answer = await client.get("/api/tally")
    assert page.status_code == 200
    assert "can't be read right now" in page.text
    assert "0 votes" not in page.text
    assert answer.status_code == 503
    assert answer.json()["votes"] is None
    assert not await create_role(engine).ready()


async def test_the_role_is_ready_when_it_can_read_the_totals(reader):
    assert await create_role(reader).ready()


async def test_many_viewers_cause_one_query(reader, monkeypatch, asked):
    monkeypatch.setattr(result_module, "RESULT_TTL", 3600)
    async with viewer(reader) as client:
        await asyncio.gather(*(client.get("/tally") for _ in range(50)))
    assert len(asked) == 1


async def test_the_timeline_is_queried_with_the_totals_and_rarely(engine, asked, reader):
    await count(engine, 2, 1)
    async with viewer(reader) as client:
        page = (await client.get("/")).text
        for _ in range(3):
            assert (await client.get("/timeline")).text.strip() in page
        assert asked == [True, False, False, False]
        await close(engine)
        for _ in range(3):  # the step in the poll's life is noticed, and then looked at
            await client.get("/tally")
    assert asked[4:] == [False, True, False]


@pytest.mark.parametrize("buckets", [1, 2, 10, 1000, 10_000])
async def test_a_timeline_of_any_length_is_short_and_ends_with_the_totals(client, engine, buckets):
    # Votes for `a` first and then for `b`, with an hour's silence in the middle.
    await insert_tally(
        engine,
        "SELECT '2030-01-01'::timestamptz + make_interval(secs => 10 * n +"
        f" CASE WHEN n >= {buckets // 2} THEN 3600 ELSE 0 END),"
        f" ARRAY[CASE WHEN n < {buckets // 2} THEN 2 ELSE 0 END, 1], 1"
        f" FROM generate_series(0, {buckets - 1}) AS n",
    )
    part = await client.get("/timeline")
    assert len(part.content) < 2000
    found = await totals.fetch_result(engine, timeline=True)
    assert len(found.timeline) <= TIMELINE_POINTS
    sums = map(sum, zip(*(each.counts for each in found.timeline), strict=True))
    assert tuple(sums) == found.totals.counts
    share = 100 * found.totals.counts[0] / found.totals.votes
    assert f"in the end {share:.1f} %" in part.text
    again = await client.get("/timeline", headers={"If-None-Match": part.headers["etag"]})
    assert again.status_code == 304


async def test_the_screen_shows_where_to_vote_and_the_same_totals(client, engine, reader):
    await count(engine, 2, 1)
    alone = (await client.get("/screen")).text
    assert (await client.get("/tally")).text.strip() in alone
    assert 'class="code"' not in alone
    async with viewer(reader, VOTE_URL="https://vote.example.com") as other:
        page = (await other.get("/screen")).text
    assert 'aria-label="QR code of vote.example.com"' in page
    assert ">vote.example.com<" in page


async def test_the_link_preview_has_totals_once_they_are_final(client, engine):
    await count(engine, 2, 1)
    described = '<meta property="og:description" content="{}">'
    assert described.format("See how the vote goes.") in (await client.get("/")).text
    await close(engine)
    final = described.format("Final result: &lt;Cats&gt; 66.7 %, Dogs 33.3 %.")
    assert final in (await client.get("/")).text


async def test_a_round_does_not_show_the_timeline_of_the_previous_one(client, engine, operator):
    await count(engine, 1, 1)
    assert "<path" in (await client.get("/timeline")).text
    await close(engine)
    await start_round(operator, 1, question_of(3))
    assert "It starts with the first vote." in (await client.get("/timeline")).text


async def test_a_closed_poll_says_that_the_last_votes_are_being_counted(client, engine):
    await count(engine, 2, 1)
    assert "closed" not in (await client.get("/tally")).text
    await close(engine, final=False)
    page = (await client.get("/tally")).text
    assert "Voting is closed. Counting the last votes." in page
    assert trigger(page) == "every 1s, again"
    assert "2 votes" in page
    answer = (await client.get("/api/tally")).json()
    assert (answer["phase"], answer["closed_at"]) == ("counting", CLOSED_AT.isoformat())


async def test_a_final_result_shows_its_time_and_is_polled_for_the_next_round(client, engine):
    await count(engine, 2, 1)
    await close(engine)
    page = (await client.get("/tally")).text
    answer = (await client.get("/api/tally")).json()
    assert (answer["phase"], answer["options"][0]["votes"]) == ("final", 2)
    assert f'<strong>Final result</strong> of <time datetime="{answer["final_at"]}">' in page
    assert "2 votes" in page
    assert trigger(page) == "every 1s, again"
    await execute(
        engine, "UPDATE poll SET state = 'open', until_ms = NULL, until_seq = NULL, final_at = NULL"
    )
    page = (await client.get("/tally")).text
    assert "Final" not in page
    assert trigger(page) == "every 1s, again"


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ((0, 0), "No votes yet."),
        ((1, 0), "<strong>1</strong> person has voted."),
        ((700, 600), "<strong>1,300</strong> people have voted."),
    ],
)
async def test_a_hidden_result_shows_the_turnout(engine, votes, said, reader):
    await count(engine, *votes)
    async with viewer(reader, SHOW_RESULTS="after_close") as client:
        page = (await client.get("/")).text
        answer = (await client.get("/api/tally")).json()
    assert "The result is shown when voting closes." in page
    assert said in page
    assert not shares(page)
    assert "%" not in page.partition("<main>")[2].replace('width="100%"', "")
    assert (answer["hidden"], answer["votes"], answer["phase"]) == (True, sum(votes), "open")
    assert [each["votes"] for each in answer["options"]] == [None, None]


async def test_a_lost_queue_is_shown_once_the_poll_is_closed(client, engine, admin):
    await count(engine, 2, 1)
    await execute(admin, "UPDATE poll SET lost_at = '2030-01-02 03:04:05+00'")
    lost = "The queue of votes was lost at"
    assert lost not in (await client.get("/tally")).text
    for final in (False, True):
        await close(engine, final=final)
        page = (await client.get("/tally")).text
        assert lost in page
        assert "2 January 2030, 03:04 UTC" in page
    answer = (await client.get("/api/tally")).json()
    assert answer["queue_lost_at"] == "2030-01-02T03:04:05+00:00"


async def test_queries_are_measured_by_their_outcome(client, engine, monkeypatch):
    def asked():
        return [measured("totals_queries_total", outcome=each) for each in metrics.OUTCOMES]

    await count(engine, 2, 3)
    before, timed = asked(), measured("totals_query_duration_seconds_count")
    await client.get("/tally")
    assert measured("votes_counted") == 5  # of all options together
    assert asked() == [before[0] + 1, before[1]]
    fail_to_connect(monkeypatch, engine)
    await client.get("/tally")
    assert asked() == [before[0] + 1, before[1] + 1]
    assert measured("totals_query_duration_seconds_count") == timed + 1


async def test_the_age_of_the_totals_grows_until_the_next_query(engine, monkeypatch, reader):
    now = 1000.0
    monkeypatch.setattr(result_module, "monotonic", lambda: now)
    async with viewer(reader) as client:
        assert isnan(measured("totals_age_seconds"))
        await client.get("/tally")
        assert measured("totals_age_seconds") == 0
        now += 60
        assert measured("totals_age_seconds") == 60
        with monkeypatch.context() as patch:
            fail_to_connect(patch, engine)
            await client.get("/tally")
            assert measured("totals_age_seconds") == 60
        # The next query begins a while after one that failed.
        polled = partial(client.get, "/tally")
        await until(polled, check=lambda _: not measured("totals_age_seconds"))


async def test_responses_to_viewers_are_measured_by_status(client):
    def views():
        return [measured("result_responses_total", status=each) for each in metrics.STATUSES]

    before = views()
    first = await client.get("/tally")
    await client.get("/tally", headers={"If-None-Match": first.headers["etag"]})
    assert views() == [each + 1 for each in before]


@pytest.mark.parametrize("options", [3, 12])
async def test_each_option_is_shown_with_its_votes(client, engine, options):
    question = await ask(engine, options)
    counts = [*range(1, options + 1)]
    await count(engine, *counts)
    answer = (await client.get("/api/tally")).json()
    assert [tuple(each.values()) for each in answer["options"]] == [
        (key, name, votes) for (key, name), votes in zip(question.options, counts, strict=True)
    ]
    page = (await client.get("/")).text
    assert [name for name in question.names if name not in page] == []
    assert len(shares(page)) == options


async def end_rounds(engine, operator):
    """End a round of two options and, twice, one of three; a fourth is open."""
    await count(engine, 2, 1)
    await close(engine)
    await start_round(operator, 1, question_of(3, "Second?"))
    for last in (UNTIL, UNTIL._replace(ms=20)):
        await execute(engine, "UPDATE poll SET state = 'closed'")
        async with engine.connect() as connection:
            await confirm_close(connection, CLOSED_AT, last)
        assert await declare_final(engine, last)
        if last == UNTIL:
            await reopen_poll(engine, (await totals.fetch_result(engine)).poll)
            ballot = QueuedBallot(15, 0, uuid4().hex, CHOICES[2])
            await counting.count(engine, [ballot])
    await start_round(operator, 2, question_of(12, "Third?"))


async def test_rounds_that_are_over_are_listed_with_their_last_results(client, engine, operator):
    assert (await client.get("/rounds")).status_code == 200
    await end_rounds(engine, operator)
    page = (await client.get("/rounds")).text
    assert page.index("Second?") < page.index("Pets")
    assert page.count("Second?") == 1  # not the result that was revoked
    assert "Third?" not in page


async def test_a_round_is_not_listed_once_it_is_reopened(client, engine):
    await close(engine)
    assert "Pets" in (await client.get("/rounds")).text
    await reopen_poll(engine, (await totals.fetch_result(engine)).poll)
    assert "Pets" not in (await client.get("/rounds")).text


async def test_results_that_were_revoked_take_no_place_in_the_list_of_rounds(
    client, engine, admin, operator
):
    await end_rounds(engine, operator)
    for table, columns in (("finals", "closed_at"), ("final_totals", "choice, votes")):
        await execute(
            admin,
            f"INSERT INTO {table} (round, final_at, {columns})"
            f" SELECT 2, final_at - n * interval '1 microsecond', {columns}"
            f" FROM {table} JOIN (SELECT max(final_at) AS final_at FROM finals) AS last"
            " USING (final_at), generate_series(1, 200) AS n",
        )
    page = (await client.get("/rounds")).text
    assert (page.count("Second?"), page.count("Pets")) == (1, 1)


async def test_a_round_that_is_over_has_a_page(client, engine, monkeypatch, operator):
    await end_rounds(engine, operator)
    first, second = [(await client.get(f"/rounds/{number}")).text for number in (1, 2)]
    assert [each.replace("&nbsp;", " ") for each in shares(first)] == ["66.7 %", "33.3 %"]
    assert "&lt;Cats&gt;" in first
    assert [name for name in question_of(3).names if name not in second] == []
    assert "100" in "".join(shares(second))
    response = await client.get("/rounds/3")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    for number in ("0", "4", "99999999999"):
        missing = await client.get(f"/rounds/{number}")
        assert missing.status_code == 404
    # Rendered once, and then kept; of very many, some are rendered again.
    monkeypatch.setattr(result_module, "MAX_ROUNDS", 2)
    etag = (await client.get("/rounds/1")).headers["etag"]
    again = await client.get("/rounds/1", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


async def test_pages_of_few_rounds_are_kept(reader, engine, monkeypatch, operator):
    monkeypatch.setattr(result_module, "MAX_ROUNDS", 1)
    await end_rounds(engine, operator)
    async with viewer(reader) as client:
        for number in (1, 2, 1):
            assert (await client.get(f"/rounds/{number}")).status_code == 200


async def test_without_postgres_rounds_are_answered_with_an_error_page(tmp_path):
    engine = create_engine(f"postgresql://postgres@/postgres?host={tmp_path}", name="tests")
    async with viewer(engine) as client:
        for path in ("/rounds", "/rounds/1"):
            assert (await client.get(path)).status_code == 503


async def test_viewers_of_a_round_share_a_query_in_all_languages_and_if_it_has_no_result(
    client, engine, admin, monkeypatch, operator
):
    await end_rounds(engine, operator)
    await execute(admin, "DELETE FROM final_totals WHERE round = 2")
    await execute(admin, "DELETE FROM finals WHERE round = 2")
    queries, fetch_past_result = [], totals.fetch_past_result

    async def noting(connection, number, **options):
        queries.append(number)
        return await fetch_past_result(connection, number, **options)

    monkeypatch.setattr(totals, "fetch_past_result", noting)
    asked = [(code, number) for code in ("en", "de", "ar") for number in (1, 2)] * 8
    answers = await asyncio.gather(
        *(
            client.get(f"/rounds/{number}", headers={"Accept-Language": code})
            for code, number in asked
        )
    )
    for (code, number), answer in zip(asked, answers, strict=True):
        assert answer.status_code == (200 if number == 1 else 404)
        assert f'<html lang="{code}"' in answer.text
    assert sorted(queries) == [1, 2]


async def test_the_page_of_a_round_is_of_the_database_that_was_restored(
    client, engine, admin, monkeypatch, operator
):
    monkeypatch.setattr(result_module, "TIMELINE_TTL", 0)
    await end_rounds(engine, operator)
    assert "Pets" in (await client.get("/rounds/1")).text
    await execute(admin, "UPDATE rounds SET title = 'Animals' WHERE round = 1")
    assert "Animals" in (await client.get("/rounds/1")).text


async def test_a_round_that_can_not_be_read_now_is_an_error_page(
    client, engine, monkeypatch, operator
):
    monkeypatch.setattr(result_module, "TIMELINE_TTL", 0)
    await end_rounds(engine, operator)

    async def fail(*_, **__):
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(totals, "fetch_past_result", fail)
        assert (await client.get("/rounds/1")).status_code == 503
    assert (await client.get("/rounds/1")).status_code == 200
