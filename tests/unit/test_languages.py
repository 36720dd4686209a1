"""Every text of the pages is in every language, and the client's language is chosen."""

import re
import tomllib
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from jinja2 import Environment, nodes
from support.asgi import client_of

from voting.poll.message import gettext, ngettext
from voting.settings import PageSettings
from voting.web.languages import LANGUAGES, get_language, negotiate
from voting.web.pages import Pages

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "voting" / "web"
TEMPLATES = sorted((WEB / "templates").iterdir())

TRANSLATIONS = [each for each in LANGUAGES if each != "en"]

PLACEHOLDER = re.compile(r"%\(\w+\)s")
TAG = re.compile(r"<[^>]*>")

AT = datetime(2030, 1, 2, 20, 4, 5, tzinfo=UTC)


# --- the catalogs


@pytest.fixture(scope="module")
def extracted():
    """Every text in the source, by its id: a text, or its singular and plural."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mappings = project["tool"]["babel"]["mappings"]
    methods = [(each["pattern"], each["method"]) for each in mappings]
    found = {message for _, _, message, *_ in extract_from_dir(ROOT / "voting", methods)}
    assert "Pick one. You can change your mind later." in found  # of a template
    assert "Voting is closed." in found  # of a module
    assert ("%(num)s vote", "%(num)s votes") in found
    return found


def read_catalog(language):
    path = WEB / "locales" / language / "LC_MESSAGES" / "voting.po"
    with path.open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_catalog_has_every_text_and_no_other(language, extracted):
    catalog = read_catalog(language)
    messages = [each for each in catalog if each.id]
    assert {each.id for each in messages} == extracted
    assert [each.id for each in messages if each.fuzzy] == []
    assert list(catalog.obsolete) == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_is_complete(language):
    """Has each plural form, each placeholder and each tag of the English text, and no other.

    A form may name its number in words: "one vote".
    """
    catalog = read_catalog(language)
    for message in catalog:
        if not message.id:
            continue
        singular, *plural = message.id if message.pluralizable else (message.id,)
        forms = message.string if plural else (message.string,)
        assert len(forms) == (catalog.num_plurals if plural else 1), message.id
        wanted = {*PLACEHOLDER.findall("".join((singular, *plural)))}
        for form in forms:
            assert form.strip(), message.id
            missing = wanted ^ {*PLACEHOLDER.findall(form)}
            assert missing <= ({"%(num)s"} if plural else set()), form
            assert not re.search(r"%(?!\(\w+\)s)", form), form
            assert TAG.findall(form) == TAG.findall(singular), form
            assert not re.search(r'[<>&"]', TAG.sub("", form)), form


def test_english_texts_are_short(extracted):
    texts = [each for one in extracted for each in ([one] if isinstance(one, str) else one)]
    assert [each for each in texts if len(each) > 135] == []


# --- the templates


class Words(HTMLParser):
    """What a reader or a screen reader finds in markup, but for keys of the keyboard."""

    def __init__(self, markup):
        super().__init__()
        self.found, self._key = [], False
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self._key = tag == "kbd"
        names = {"aria-label", "alt", "placeholder", "title", "data-over", "data-in", "data-ago"}
        self.found += [value for name, value in attrs if name in names and value]

    def handle_endtag(self, _tag):
        self._key = False

    def handle_data(self, data):
        if not self._key:
            self.found.append(data)


def unmarked(source):
    """Return the words of a template that no translation can replace."""
    source = re.sub(r"(?<={% block page %})\w+", "", source)  # a class
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    data, inside = "", False
    for _, kind, value in environment.lex(source):
        inside = (inside or kind == "variable_begin") and kind != "variable_end"
        data += value if kind == "data" else "0" if kind == "variable_end" else ""
    constants = []
    for output in environment.parse(source).find_all(nodes.Output):
        marked = {
            id(const)
            for call in output.find_all(nodes.Call)
            if getattr(call.node, "name", None) in {"_", "ngettext"}
            for const in call.find_all(nodes.Const)
        }
        constants += [
            re.sub(r'[\w-]+="[^"]*"', "", each.value)
            for each in output.find_all(nodes.Const)
            if isinstance(each.value, str) and id(each) not in marked
        ]
    words = [word for text in Words(data).found for word in re.findall(r"[^\W\d_]+", text)]
    # A constant may be a class or an attribute, but no sentence.
    words += [
        each for text in constants for each in Words(text).found if re.search("[A-Z]|. .", each)
    ]
    return {*words} - {"UTC", "CSV", "JSON"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_text_of_a_template_is_marked_for_translation(template):
    assert unmarked(template.read_text()) == set()


@pytest.mark.parametrize(
    "source",
    [
        "<p>Vote</p>",
        '<svg aria-label="Vote"></svg>',
        '{{ "Vote" if closed }}',
        '<p>{{ "cast a vote" if closed else _("Vote") }}</p>',
        "{% if closed %}closed{% endif %}",
    ],
)
def test_a_text_that_is_not_marked_is_found(source):
    assert unmarked(source) != set()


# --- what a language makes of texts, numbers and times


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("en", {0: "0 votes", 1: "1 vote", 1234: "1,234 votes"}),
        ("de", {0: "0 Stimmen", 1: "1 Stimme", 1234: "1.234 Stimmen"}),
        ("fr", {0: "0 voix", 1234: "1\u202f234 voix", 1_000_000: "1\u202f000\u202f000 de voix"}),
        ("ja", {1: "1票", 1234: "1,234票"}),
        (
            "ar",
            {
                0: "0 صوت",
                1: "صوت واحد",
                2: "صوتان",
                3: "3 أصوات",
                11: "11 صوتًا",
                100: "100 صوت",
                103: "103 أصوات",
                1234: "1,234 صوتًا",
            },
        ),
    ],
)
def test_a_text_agrees_with_its_number(language, forms):
    made = {n: get_language(language).ngettext("%(num)s vote", "%(num)s votes", n) for n in forms}
    assert made == forms


def test_a_message_is_english_and_any_other_language():
    lines = [gettext("option %(number)s %(problem)s", number=1234, problem=gettext("is empty"))]
    lines.append(ngettext("%(num)s vote", "%(num)s votes", 1234))
    lines.append(gettext("%(totals)s, final since %(time)s.", totals=lines[1:], time=AT))
    assert lines == [
        "option 1,234 is empty",
        "1,234 votes",
        "1,234 votes, final since 2030-01-02 20:04:05 UTC.",
    ]
    *texts, last = [get_language("de").gettext(each) for each in lines]
    assert texts == ["Option 1.234 ist leer", "1.234 Stimmen"]
    assert last == (
        '1.234 Stimmen, endgültig seit <time datetime="2030-01-02T20:04:05+00:00">'
        "2. Januar 2030, 20:04 UTC</time>."
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_are_escaped(language):
    text = get_language(language).gettext("Your vote for %(option)s is counted.", option="<b>")
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("language", "share", "moment"),
    [
        ("en", "50.0 %", "2 January 2030, 20:04 UTC"),
        ("de", "50,0\xa0%", "2. Januar 2030, 20:04 UTC"),
        ("fr", "50,0\xa0%", "2 janvier 2030, 20:04 UTC"),
        ("es", "50,0\xa0%", "2 de enero de 2030, 20:04 UTC"),
        ("pt", "50,0%", "2 de janeiro de 2030, 20:04 UTC"),
        ("ja", "50.0%", "2030年1月2日 20:04 UTC"),
        ("ar", "50.0%", "2 يناير 2030، 8:04 م UTC"),
    ],
)
def test_shares_and_times_are_written_as_in_the_language(language, share, moment):
    made = get_language(language)
    assert made.percent(50.0).strip("\u200e\u200f") == share
    assert moment in made.moment(AT).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("duration", "start", "end"),
    [
        (timedelta(seconds=50), "20:04:05", "20:04:55"),
        (timedelta(hours=2), "20:04", "22:04"),
        (timedelta(days=1), "2 Jan, 20:04", "3 Jan, 20:04"),
    ],
)
def test_the_times_of_a_timeline_are_as_precise_as_it_is_short(duration, start, end):
    assert get_language("en").ends(AT, AT + duration) == [start, end]


# --- the language of a response


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("DE-at", "de"),
        ("pt-BR, pt;q=0.9, en;q=0.8", "pt"),
        ("zh-Hant-TW, nl;q=0.9, fr;q=0.2", "fr"),
        ("en;q=0.5, ar;q=0.9", "ar"),
        ("en;q=0.5 , es ; q=0.501", "es"),
        ("fr, de", "fr"),  # of the same weight the first
        ("ja;q=0", "en"),
        ("*", "en"),
        ("*, ja;q=0.5", "en"),
        ("nl, *;q=0.1", "en"),
        ("nl, sv", "en"),
        ("de;q=2, fr;q=nan, es;q=-1, ja;level=1, ar;q=0.1234", "en"),
        (",;,=;de;q", "en"),
        ("ger, deutsch, d", "en"),
        ("\u00e9, de;q=0.1", "de"),
        ("nl," * 60 + "de," * 20, "de"),
        ("nl," * 10_000 + "de", "en"),  # so much is read
    ],
)
def test_the_best_of_the_accepted_languages_is_chosen(header, language):
    headers = {} if header is None else {b"accept-language": header.encode()}
    assert negotiate(headers).code == language


@pytest.mark.parametrize("accepted", ["de", "*"])
async def test_an_error_page_has_the_language_of_the_client_or_of_the_setting(accepted):
    wanted = {"de": "Diese Seite gibt es nicht.", "*": "There is no such page."}
    for fixed in (None, "ar"):
        app = Pages(PageSettings(page_language=fixed)).create_app([])
        async with client_of(app) as client:
            page = await client.get("/nowhere", headers={"Accept-Language": accepted})
        language = fixed or {"de": "de", "*": "en"}[accepted]
        assert page.headers["content-language"] == language
        assert page.headers.get("vary") == (None if fixed else "accept-language")
        assert f'<html lang="{language}" dir="{"rtl" if fixed else "ltr"}">' in page.text
        assert (wanted[accepted] in page.text) is (fixed is None)
