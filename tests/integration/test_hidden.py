"""The result role shows no total before the close, or the reveal, that SHOW_RESULTS asks for."""

import re
from itertools import product

import pytest
from support.asgi import client_of
from support.database import execute, finish, insert_tally, question_of

from voting.database.poll import reveal_results, start_round
from voting.database.totals import fetch_result
from voting.poll.ballot import Version
from voting.roles import result as result_module
from voting.roles.result import ResultRole
from voting.settings import ResultSettings, load_settings
from voting.web import ops
from voting.web.server import head_as_get

pytestmark = pytest.mark.usefixtures("uncached_totals")

A, B = 7351, 2948
ENVIRON = {
    "DATABASE_URL": "postgresql://unused",
    "VOTE_URL": "http://vote.localhost",
}

# Each total, how far apart they are, and their shares: as a number of its own, not as a part of
# a time or of a digest.
TELLING = re.compile(
    r"(?<![\w.])(7,?351|2,?948|4,?403|71\.38|71\.4|28\.62|28\.6|0?\.713\d*|0?\.286\d*)\b"
)
# When Postgres was asked.
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00")

BUSY = re.compile(r"voting_(totals_(queries|query|age)|result_responses)")

PARAMETERS = {"digest:str": "0123456789ab", "name:str": "style.css", "number:int": "1"}
QUERIES = ("", "?round=1", "?round=2", "?round=x", "?votes=1&hidden=false&results=always")
HEADERS = (
    {},
    {"HX-Request": "true"},
    {"Accept": "application/json", "Accept-Encoding": "gzip"},
    {"Accept": "text/csv"},
    {"If-None-Match": "*"},
    {"Range": "bytes=0-10"},
)


class Site:
    """The role's two applications, and every address that they have."""

    def __init__(self, engine, show_results):
        environ = {**ENVIRON, "SHOW_RESULTS": show_results}
        role = ResultRole(engine, load_settings(ResultSettings, environ), exports=engine)
        self._apps = role.create_app(), ops.create_ops_app("result", "unknown", role.ready)

    def addresses(self):
        for app in self._apps:
            for route in app.routes:
                yield app, re.sub(r"{([^}]*)}", lambda match: PARAMETERS[match[1]], route.path)
            yield app, "/nowhere"

    async def answers(self):
        """Send every request of the sweep; return its description and status, and all text."""
        found = []
        for app, path in self.addresses():
            async with client_of(head_as_get(app), "http://result") as client:
                for method, query, headers in product(("GET", "HEAD", "POST"), QUERIES, HEADERS):
                    answer = await client.request(method, path + query, headers=headers)
                    asked = f"{method} {path}{query}"
                    found.append((asked, answer.status_code, f"{headers}\n{_read(path, answer)}"))
        return found


def _read(path, answer):
    if path == "/metrics":
        # Others are about the process, or how often and how long Postgres was asked.
        lines = answer.text.splitlines()
        return "\n".join(line for line in lines if "voting" in line and not BUSY.search(line))
    return "\n".join([*map(": ".join, answer.headers.items()), answer.text])


async def count(engine, a, b):
    """Count as many, in two steps, at the same moments each time."""
    await execute(engine, "DELETE FROM tally")
    first, second = "'2030-01-01 00:00:00+00'::timestamptz", "'2030-01-01 00:00:10+00'"
    rows = f"({first}, ARRAY[1000, 1000], 1), ({second}, ARRAY[{a - 1000}, {b - 1000}], 1)"
    await insert_tally(engine, f"VALUES {rows}")


@pytest.fixture
def site(reader):
    return Site(reader, "after_close")


def telling(answers):
    return {asked for asked, _, text in answers if TELLING.search(text)}


PAGES = ("/", "/tally", "/screen", "/timeline", "/api/tally")
ALL = {
    *(f"GET {path}{query}" for path in ("/export.csv", "/export.json") for query in QUERIES[:2]),
    *(f"GET {path}{QUERIES[-1]}" for path in ("/export.csv", "/export.json")),
    *(f"GET {path}{query}" for path in PAGES for query in QUERIES),
}


ROUNDS = {f"GET /rounds{query}" for query in QUERIES}
PAST = {
    *(f"GET /export.{suffix}?round=1" for suffix in ("csv", "json")),
    *(f"GET /rounds/1{query}" for query in QUERIES),
}


async def test_the_sweep_covers_every_path(site):
    paths = {path for _, path in site.addresses()}
    assert {*PAGES, "/export.csv", "/export.json"} < paths
    assert {"/metrics", "/version", "/nowhere", "/static/0123456789ab/style.css"} < paths


async def test_no_response_has_a_total_before_the_close_and_all_have_it_afterwards(site, admin):
    await count(admin, A, B)
    one = await site.answers()
    assert telling(one) == set()
    assert {status for _, status, _ in one} >= {200, 400, 404, 405}
    assert any("10,299" in text for *_, text in one)  # the turnout is no secret

    # No answer changes as long as the turnout is the same.
    await count(admin, B, A)
    other = await site.answers()
    for (*asked, these), (*again, those) in zip(one, other, strict=True):
        assert (asked, MOMENT.sub("now", these)) == (again, MOMENT.sub("now", those))

    await execute(admin, "UPDATE poll SET state = 'closed', closed_at = now()")
    assert telling(await site.answers()) == ALL


async def test_an_operator_may_reveal_the_totals_before_the_close(site, engine, operator):
    await count(engine, A, B)
    await reveal_results(operator, (await fetch_result(engine)).poll)
    assert telling(await site.answers()) == ALL


@pytest.fixture
async def unrevealed(reader, engine, monkeypatch):
    """A site with a final round, whose totals are not revealed yet."""
    monkeypatch.setattr(result_module, "TIMELINE_TTL", 0)
    await count(engine, A, B)
    await finish(engine, Version(10, 0))
    return Site(reader, "when_revealed")


@pytest.mark.timeout(300)
async def test_with_when_revealed_no_response_has_a_total_before_the_reveal(
    unrevealed, engine, operator
):
    found = await unrevealed.answers()
    assert telling(found) == set()
    assert any("10,299" in text for *_, text in found)
    assert any("The result is shown later." in text for *_, text in found)
    await reveal_results(operator, (await fetch_result(engine)).poll)
    assert telling(await unrevealed.answers()) == ALL | ROUNDS


@pytest.mark.timeout(300)
async def test_with_when_revealed_an_earlier_round_stays_hidden_until_it_is_revealed(
    unrevealed, engine, operator
):
    await start_round(operator, 1, question_of(3))
    assert telling(await unrevealed.answers()) == set()
    await reveal_results(operator, (await fetch_result(engine)).poll, number=1)
    assert telling(await unrevealed.answers()) == PAST | ROUNDS
