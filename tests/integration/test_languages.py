"""Clients with different languages share a role, and each gets its own from every cache."""

from uuid import uuid4

from support.asgi import client_of
from support.database import finish

from voting.database import counting
from voting.database.poll import start_round
from voting.poll.ballot import MIN_VERSION, QueuedBallot, Version
from voting.poll.lifecycle import Poll
from voting.poll.question import CHOICES, Question
from voting.roles.result import ResultRole
from voting.roles.vote import VoteRole
from voting.settings import ResultSettings, VoteSettings, load_settings

VOTE = {"REDIS_URL": "redis://unused", "SECRET_KEYS": "k" * 32}
RESULT = {"DATABASE_URL": "postgresql://unused"}

# Each one twice: the second response may come from a cache.
ACCEPTED = ("de-CH, en;q=0.5", "ar", "fr, de;q=0.9", "de-CH, en;q=0.5", "ar", "fr, de;q=0.9")


async def expect_languages(client, path, texts, **headers):
    """Expect each client's language, with its own ETag; and that another's is no 304."""
    etags = {}
    for accepted in ACCEPTED:
        language = accepted[:2]
        asked = {"Accept-Language": accepted, **headers}
        page = await client.get(path, headers=asked)
        assert page.status_code == 200
        assert page.headers["content-language"] == language
        assert "accept-language" in page.headers["vary"]
        assert (language, texts[language] in page.text) == (language, True)
        if etag := page.headers.get("etag"):
            assert etags.setdefault(language, etag) == etag
            for other, known in etags.items():
                again = await client.get(path, headers={**asked, "If-None-Match": known})
                assert again.status_code == (304 if other == language else 200)
                assert "accept-language" in again.headers["vary"]
    assert len({*etags.values()}) == len(etags)
    return etags


async def test_the_vote_page_and_its_polls_are_in_the_language_of_each_voter(stream):
    await stream.sync_poll(MIN_VERSION, Poll())
    pick = {"de": "Bitte wählen.", "ar": "اختر واحدًا.", "fr": "Choisissez."}
    queued = {"de": "Angenommen", "ar": "تم الاستلام", "fr": "Reçu"}
    app = VoteRole(stream.caster, stream.vote, load_settings(VoteSettings, VOTE)).create_app()
    async with client_of(app, "http://vote.localhost") as client:
        await expect_languages(client, "/", pick)
        htmx = {"HX-Request": "true"}
        assert await expect_languages(client, "/?round=1", pick, **htmx)
        for accepted in ACCEPTED:
            form = {"round": 1, "choice": "a"}
            headers = {"Accept-Language": accepted, **htmx}
            part = await client.post("/vote", data=form, headers=headers)
            assert part.headers["content-language"] == accepted[:2]
            assert queued[accepted[:2]] in part.text
        missing = await client.get("/vote", headers={"Accept-Language": "fr"})
        assert (missing.status_code, missing.headers["content-language"]) == (405, "fr")


async def test_a_setting_fixes_the_language_by_which_no_cache_varies(stream):
    await stream.sync_poll(MIN_VERSION, Poll())
    settings = load_settings(VoteSettings, {**VOTE, "PAGE_LANGUAGE": "ar"})
    app = VoteRole(stream.caster, stream.vote, settings).create_app()
    async with client_of(app, "http://vote.localhost") as client:
        page = await client.get("/", headers={"Accept-Language": "de"})
    assert page.headers["content-language"] == "ar"
    assert "vary" not in page.headers
    assert '<html lang="ar" dir="rtl">' in page.text


async def test_the_pages_of_the_result_are_in_the_language_of_each_viewer(reader, engine, operator):
    ballots = [QueuedBallot(1, n, uuid4().hex, CHOICES[n % 2]) for n in range(3)]
    await counting.count(engine, ballots)
    await finish(engine, Version(9, 0))
    await start_round(operator, 1, Question())
    over = {"de": "66,7", "ar": "66.7", "fr": "66,7"}
    none = {"de": "Noch keine Stimmen.", "ar": "لا أصوات بعد.", "fr": "Pas encore de vote."}
    start = {
        "de": "Beginnt mit der ersten",
        "ar": "يبدأ مع أول صوت",
        "fr": "Commence avec le premier",
    }
    app = ResultRole(reader, load_settings(ResultSettings, RESULT), exports=reader).create_app()
    async with client_of(app, "http://result.localhost") as client:
        pages = {"/": none, "/tally": none, "/screen": none, "/timeline": start}
        for path, texts in {**pages, "/rounds": over, "/rounds/1": over}.items():
            assert await expect_languages(client, path, texts)
        for path in ("/api/tally", "/export.csv?round=1", "/export.json?round=1"):
            data = await client.get(path, headers={"Accept-Language": "de"})
            assert data.status_code == 200
            assert "content-language" not in data.headers
            assert "language" not in data.headers.get("vary", "")
