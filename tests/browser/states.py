"""Every state that the pages can be in, and how they reach it."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from playwright.sync_api import Page, expect
from support.wait import wait_for

from voting.poll.question import Question
from voting.poll.results import VoteCounts
from voting.web.languages import LANGUAGES

from .conftest import OPEN, Site, Visitors
from .pages import choose, expect_receipt, hold

# Half an hour of more and more votes, many of them changed later.
FILL = """
INSERT INTO tally (round, bucket, choice, votes, ms)
SELECT
  round, '2030-01-01 20:00:00+00'::timestamptz + make_interval(secs => 10 * n), key,
  30 + 13 * k % 50 + (40 * (1 + sin(n / 20.0 + 2 * k)))::int, 1
FROM poll JOIN options USING (round), LATERAL (SELECT ascii(key) - 97 AS k) AS place,
  generate_series(0, 179) AS n
"""
TIE = """
INSERT INTO tally (round, bucket, choice, votes, ms)
SELECT round, '2030-01-01 20:00:00+00', key, 7, 1 FROM poll JOIN options USING (round)
"""
CLOSE = "UPDATE poll SET state = 'closed', closed_at = now()"
CONFIRM = "UPDATE poll SET until_ms = 9, until_seq = 0"
REVEAL = "UPDATE rounds SET revealed = true"
FINISH = """
WITH done AS (
  UPDATE poll SET until_ms = 9, until_seq = 0, closed_at = now(), final_at = now()
  RETURNING round, final_at, closed_at
), declared AS (
  INSERT INTO finals (round, final_at, closed_at) SELECT * FROM done
)
INSERT INTO final_totals (round, final_at, choice, votes)
SELECT round, final_at, choice, sum(votes) FROM done JOIN tally USING (round) GROUP BY 1, 2, 3
"""
LOSE = "UPDATE poll SET lost_at = '2030-01-02 03:04:05+00'"


@dataclass(frozen=True)
class Stage:
    """The apps to make a state with: with default settings, a hidden result, and long texts."""

    request: pytest.FixtureRequest
    site: Site
    visitors: Visitors

    @property
    def hidden(self) -> Site:
        return self.request.getfixturevalue("hidden_site")

    @property
    def long(self) -> Site:
        return self.request.getfixturevalue("long_site")


LUNCH = Question(
    "Where shall we have lunch on Friday?", ("The Italian place", "Sushi", "Picnic in the park")
)
CITIES = (
    *("Lisbon", "Kraków", "Reykjavík", "Ljubljana", "Thessaloniki", "Gothenburg", "Valencia"),
    *("Tallinn", "Porto", "Ghent", "Bologna", "Brno"),
)
CITY_OF_SIX = Question("Which city should host the next conference?", CITIES[:6])
CITY = Question("Which city should host the next conference?", CITIES)

State = Callable[[Stage], Iterator[Page]]
STATES: dict[str, Callable[[Stage], AbstractContextManager[Page]]] = {}


def state(name: str, question: Question = Question()) -> Callable[[State], None]:  # noqa: B008
    """Add a generator to STATES that yields a page in this state, where `site` asks `question`."""

    def add(make: State) -> None:
        def ask_and_make(stage: Stage) -> Iterator[Page]:
            stage.site.ask(question)
            yield from make(stage)

        STATES[name] = contextmanager(ask_and_make)

    return add


def _voted(stage: Stage, site: Site, choice: str, *, counted: bool = True) -> Page:
    """Open the vote page, choose, and wait for the receipt."""
    page = stage.visitors.open(site.vote)
    choose(page, choice)
    expect(page.locator(f"#receipt .badge{'.done' if counted else ':not(.done)'}")).to_be_visible()
    return page


def _expect_alert(page: Page, words: str) -> None:
    """Expect that the page shows this problem, in English or in another language."""
    alert = page.locator("#ballot, #live, .top").get_by_role("alert")
    expect(alert).to_be_visible()
    if page.locator("html").get_attribute("lang") == "en":
        expect(alert).to_contain_text(words)


@state("vote-empty")
def _(stage: Stage) -> Iterator[Page]:
    yield stage.visitors.open(stage.site.vote)


def _counted_in(language: str) -> State:
    def make(stage: Stage) -> Iterator[Page]:
        stage.visitors.locale = language
        page = _voted(stage, stage.site, "b")
        expect(page.locator("html")).to_have_attribute("lang", language)
        yield page

    return make


for _language in LANGUAGES:
    state(f"vote-in-{_language}")(_counted_in(_language))


@state("vote-sending")
def _(stage: Stage) -> Iterator[Page]:
    page = stage.visitors.open(stage.site.vote)
    held = hold(page, "**/vote")
    choose(page, "a")
    expect(page.locator(".sending")).to_have_count(1)
    yield page
    held[0].continue_()


@state("vote-chosen")
def _(stage: Stage) -> Iterator[Page]:
    with stage.site.up.frozen("worker"):
        yield _voted(stage, stage.site, "a", counted=False)


@state("vote-counted")
def _(stage: Stage) -> Iterator[Page]:
    yield _voted(stage, stage.site, "b")


@state("vote-closing")
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.close_poll(at=datetime.now(UTC) + timedelta(minutes=12))
    yield _voted(stage, stage.site, "a")


@state("vote-closed")
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.close_poll()
    page = stage.visitors.open(stage.site.vote)
    expect_receipt(page, "You have not voted here.")
    yield page


@state("vote-final")
def _(stage: Stage) -> Iterator[Page]:
    page = _voted(stage, stage.site, "a")
    stage.site.up.close_poll()
    page.reload()
    expect_receipt(page, "Voting is closed.", "is counted.")
    yield page


@state("vote-error")
def _(stage: Stage) -> Iterator[Page]:
    stage.visitors.expect_no_response()
    page = _voted(stage, stage.site, "a")
    page.route("**/vote", lambda route: route.abort())
    choose(page, "b")
    expect(page.get_by_role("alert")).to_be_visible()
    yield page


@state("vote-refused")
def _(stage: Stage) -> Iterator[Page]:
    stage.visitors.expect_status(400)
    page = stage.visitors.open(stage.site.vote)
    page.context.clear_cookies()
    choose(page, "a")
    expect(page.get_by_role("alert")).to_be_visible()
    yield page


@state("vote-of-another-poll")
def _(stage: Stage) -> Iterator[Page]:
    stage.visitors.expect_status(400)
    page = stage.visitors.open(stage.site.vote)
    [cookie] = page.context.cookies()
    page.context.add_cookies([{**cookie, "value": f"{'0' * 32}.signature"}])
    choose(page, "a")
    _expect_alert(page, "of another poll")
    yield page


@state("vote-too-often")
def _(stage: Stage) -> Iterator[Page]:
    page = _voted(stage, stage.site, "a")
    form = {"round": page.locator("[name=round]").input_value(), "choice": "a"}
    for _ in range(20):
        page.request.post(f"{stage.site.vote}/vote", form=form)
    stage.visitors.expect_status(429)
    choose(page, "b")
    _expect_alert(page, "too often")
    yield page


@state("vote-long")
def _(stage: Stage) -> Iterator[Page]:
    yield _voted(stage, stage.long, "b")


def _counted(on: str, path: str, statements: list[str]) -> State:
    """Run the statements in the app `on`, and open a page of its result role."""

    def make(stage: Stage) -> Iterator[Page]:
        site: Site = getattr(stage, on)
        with site.up.frozen("worker"):  # it would change the poll too
            for statement in statements:
                site.up.sql(statement)
            wait_for("the timeline to be new", lambda: _is_new(site))
            yield stage.visitors.open(site.result + path)
            site.up.sql(OPEN)
            site.up.empty("tally", "final_totals", "finals")

    return make


def _is_new(site: Site) -> bool:
    """Whether the timeline, which is queried rarely, ends with the totals."""
    tally = httpx.get(f"{site.result}/api/tally").json()
    votes = [each["votes"] for each in tally["options"]]
    if not tally["votes"]:
        end = "first vote"
    elif tally["hidden"]:
        end = f"{tally['votes']:,}"
    else:
        end = f"in the end {VoteCounts.of(votes, hidden=False).shares[0]:.1f} %"
    return end in httpx.get(f"{site.result}/timeline").text


for _name, _path, _on, *_statements in (
    ("result-empty", "/", "site"),
    ("result-voting", "/", "site", FILL),
    ("result-tie", "/", "site", TIE),
    ("result-hidden", "/", "hidden", FILL),
    ("result-counting", "/", "hidden", FILL, CLOSE),
    ("result-final", "/", "hidden", FILL, CLOSE, FINISH),
    ("result-queue-lost", "/", "hidden", FILL, CLOSE, FINISH, LOSE),
    ("result-long", "/", "long", FILL),
    ("result-missing", "/nowhere", "site"),
    ("screen-empty", "/screen", "site"),
    ("screen-voting", "/screen", "site", FILL),
    ("screen-hidden", "/screen", "hidden", FILL),
    ("screen-final", "/screen", "hidden", FILL, CLOSE, FINISH),
    ("screen-long", "/screen", "long", FILL),
):
    state(_name)(_counted(_on, _path, _statements))


def _chosen(stage: Stage) -> Iterator[Page]:
    yield _voted(stage, stage.site, "b")


for _count, _question in ((3, LUNCH), (6, CITY_OF_SIX), (12, CITY)):
    state(f"vote-{_count}", _question)(_chosen)
    state(f"result-{_count}", _question)(_counted("site", "/", [FILL]))
    state(f"screen-{_count}", _question)(_counted("site", "/screen", [FILL]))

state("screen-12-final", CITY)(_counted("site", "/screen", [FILL, CLOSE, FINISH]))


def _over(path: str) -> State:
    """Ask the next question once there are votes, and open a page of the round that is over."""

    def make(stage: Stage) -> Iterator[Page]:
        stage.site.up.sql(FILL)
        round_ = httpx.get(f"{stage.site.result}/api/tally").json()["round"]
        stage.site.ask(LUNCH)
        address = stage.site.result + path.format(round_)
        # A first query that takes over a second has no earlier answer to fall back on.
        wait_for("the page", lambda: httpx.get(address).is_success)
        yield stage.visitors.open(address)

    return make


state("rounds", CITY)(_over("/rounds"))
state("round", CITY)(_over("/rounds/{}"))


@state("result-stale")
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.sql(FILL)
    page = stage.visitors.open(stage.site.result)
    expect(page.locator(".votes").first).not_to_have_text("0 votes")
    with stage.site.up.frozen("postgres -D"):
        expect(page.locator(".updated")).to_be_visible()
        yield page


@state("result-error")
def _(stage: Stage) -> Iterator[Page]:
    stage.visitors.expect_no_response()
    stage.site.up.sql(FILL)
    page = stage.visitors.open(stage.site.result)
    expect(page.locator(".votes").first).not_to_have_text("0 votes")
    page.route("**/tally", lambda route: route.abort())
    expect(page.locator(".updated")).to_be_visible()
    yield page


PREPARE = """
INSERT INTO questions (position, title, names) VALUES
  (1, 'And to drink?', '{Tea,Coffee,Water}'),
  (2, 'Where shall we have lunch on Friday?', '{The Italian place,Sushi,Picnic in the park}'),
  (3, 'Which city should host the next conference?', '{Lisbon,Kraków,Reykjavík,Ljubljana}')
"""


def _led(on: str, *statements: str, press: str | None = None) -> State:
    """Run the statements in the app `on`, open its admin page and press a button."""

    def make(stage: Stage) -> Iterator[Page]:
        site: Site = getattr(stage, on)
        with site.up.frozen("worker"):  # it would change the poll too
            for statement in statements:
                site.up.sql(statement)
            page = stage.visitors.open(site.up.admin)
            if press:
                page.locator(f"#do-{press}").click()
                expect(page.locator("#confirm")).to_be_focused()
            yield page
            site.up.sql(OPEN)
            site.up.sql("UPDATE rounds SET revealed = false")
            site.up.empty("tally", "final_totals", "finals", "questions")

    return make


for _name, _on, *_statements in (
    ("admin-empty", "site"),
    ("admin-open", "site", FILL, PREPARE),
    ("admin-hidden", "hidden", FILL, PREPARE),
    ("admin-revealed", "hidden", FILL, PREPARE, REVEAL),
    ("admin-closing", "hidden", FILL, PREPARE, CLOSE),
    ("admin-counting", "hidden", FILL, PREPARE, CLOSE, CONFIRM),
    ("admin-final", "site", FILL, PREPARE, CLOSE, FINISH),
    ("admin-long", "long", FILL, PREPARE),
):
    state(_name)(_led(_on, *_statements))

state("admin-confirm")(_led("site", FILL, PREPARE, press="next"))
state("admin-12", CITY)(_led("site", FILL, PREPARE))


@state("admin-scheduled")
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.close_poll(at=datetime.now(UTC) + timedelta(minutes=12))
    yield from _led("site", FILL, PREPARE)(stage)


@state("admin-asking")
def _(stage: Stage) -> Iterator[Page]:
    with stage.site.up.frozen("worker"):
        stage.site.up.vote("a")
        for page in _led("site", PREPARE, press="next")(stage):
            page.locator("#confirm button").click()
            expect(page.locator(".progress")).to_contain_text(re.compile("1|واحدة"))
            yield page
            page.locator("#do-reopen").click()
            _expect_alert(page, "was not asked")
            page.locator("#do-close-5").click()  # after which the page no longer says so
            expect(page.locator(".closes")).to_be_visible()


@state("admin-earlier-rounds", CITY)
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.sql(FILL)
    stage.site.ask(LUNCH)
    yield stage.visitors.open(stage.site.up.admin)


def _audited(*statements: str) -> State:
    def make(stage: Stage) -> Iterator[Page]:
        for page in _led("site", *statements)(stage):
            page.locator("#audit button").click()
            expect(page.locator("#audited")).to_be_visible()
            yield page

    return make


state("admin-audited")(_audited())
state("admin-audit-failed")(_audited(FILL))


@state("admin-queue-away")
def _(stage: Stage) -> Iterator[Page]:
    page = stage.visitors.open(stage.site.up.admin)
    with stage.site.up.frozen("valkey-server"):
        expect(page.locator(".problem")).to_contain_text("This page can't reach the queue")
        yield page


@state("admin-database-away")
def _(stage: Stage) -> Iterator[Page]:
    stage.site.up.sql(FILL)
    page = stage.visitors.open(stage.site.up.admin)
    with stage.site.up.frozen("postgres -D"):
        expect(page.locator(".problem")).to_contain_text("The database can't be reached")
        yield page


@state("admin-refused")
def _(stage: Stage) -> Iterator[Page]:
    stage.visitors.expect_status(403)
    yield stage.visitors.open(stage.site.up.admin.partition("?")[0])
