"""What an operator asks is text on every page, whatever it looks like."""

from html.parser import HTMLParser
from uuid import uuid4

from sqlalchemy import text
from support.asgi import client_of
from support.database import ask, finish

from voting.database import counting
from voting.database.engine import transaction
from voting.database.poll import start_round
from voting.poll.ballot import MIN_VERSION, QueuedBallot, Version
from voting.poll.lifecycle import Poll
from voting.poll.question import CHOICES, Question
from voting.roles.result import ResultRole
from voting.roles.vote import VoteRole
from voting.settings import ResultSettings, VoteSettings, load_settings

PLAIN = Question("Which?", ("One", "Two", "Three"))
MARKUP = Question(
    "\"><script>alert('title')</script><b>",
    ("<b>'One'</b>", '"><script>alert("two")</script>', "&lt;{{ 3 }}' onclick='alert()"),
)

VOTE = {"REDIS_URL": "redis://unused", "SECRET_KEYS": "k" * 32, "VOTE_URL": "http://vote.localhost"}
RESULT = {"DATABASE_URL": "postgresql://unused"}


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, and all of its text."""

    def __init__(self, page):
        super().__init__()
        self.names, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append((tag, [name for name, _ in attrs]))
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data):
        self.texts.append(data)


def expect_only_text(pages):
    """Expect that pages of MARKUP have the elements that those of PLAIN have, and all its texts."""
    for plain, markup in zip(pages[PLAIN], pages[MARKUP], strict=True):
        found = Elements(markup)
        assert found.names == Elements(plain).names
        texts = "".join(found.texts)
        assert [each for each in (MARKUP.title, *MARKUP.names) if each not in texts] == []


async def test_markup_in_a_question_is_text_on_the_vote_page(stream):
    pages, settings = {}, load_settings(VoteSettings, VOTE)
    for revision, question in enumerate((PLAIN, MARKUP)):
        await stream.sync_poll(MIN_VERSION, Poll(question=question, revision=revision))
        app = VoteRole(stream.caster, stream.vote, settings).create_app()
        async with client_of(app, "http://vote.localhost") as client:
            page = await client.get("/")
            form = {"round": 1, "choice": "c"}
            answer = await client.post("/vote", data=form, headers={"HX-Request": "true"})
            assert (page.status_code, answer.status_code) == (200, 200)
            pages[question] = [page.text, answer.text, (await client.get("/")).text]
    expect_only_text(pages)


async def rename(admin, question):
    """Have every round ask this question."""
    async with transaction(admin) as connection:
        await connection.execute(
            text("UPDATE rounds SET title = :title"), {"title": question.title}
        )
        for key, name in question.options:
            statement = text("UPDATE options SET name = :name WHERE key = :key")
            await connection.execute(statement, {"name": name, "key": key})


async def test_markup_in_a_question_is_text_on_every_page_of_the_result(
    reader, engine, admin, operator
):
    await ask(engine, PLAIN)
    ballots = [QueuedBallot(1, n, uuid4().hex, CHOICES[n // 2]) for n in range(5)]
    await counting.count(engine, ballots)
    await finish(engine, Version(9, 0))
    pages, settings = {PLAIN: [], MARKUP: []}, load_settings(ResultSettings, RESULT)

    async def visit(*paths):
        for question in (PLAIN, MARKUP):
            await rename(admin, question)
            app = ResultRole(reader, settings, exports=reader).create_app()
            async with client_of(app, "http://result.localhost") as client:
                pages[question] += [(await client.get(path)).text for path in paths]

    await visit("/", "/screen")
    await start_round(operator, 1, PLAIN)
    await visit("/", "/screen", "/rounds", "/rounds/1")
    expect_only_text(pages)
