"""The languages of the pages: their texts, numbers and times, and which one a response has.

The texts are gettext's: English in the source, the others in `locales/*/LC_MESSAGES/voting.po`.
"""

import re
from datetime import datetime, timedelta
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations
from importlib import resources
from io import BytesIO
from typing import Any, get_args

from babel import Locale
from babel.dates import format_date, format_skeleton, format_time, get_datetime_format
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from markupsafe import Markup

from voting.poll.message import Message
from voting.settings import LanguageCode
from voting.web.headers import Header, RequestHeaders

LANGUAGES: tuple[LanguageCode, ...] = get_args(LanguageCode)
ENGLISH: LanguageCode = "en"

# Bytes of an Accept-Language header that are read: browsers send a hundred at most.
MAX_HEADER = 200


class Language:
    """A language: `headers` of its responses, and `context` for the templates.

    Texts are markup, and the values in them are escaped. All times are in UTC.
    """

    def __init__(self, code: LanguageCode, *, negotiated: bool) -> None:
        self.code = code
        self.headers: tuple[Header, ...] = ((b"content-language", code.encode()),)
        if negotiated:
            self.headers += ((b"vary", b"accept-language"),)
        # As Europe writes it: 2 January 2030, 20:15.
        self._locale = Locale.parse("en_GB" if code == ENGLISH else code)
        self._texts = NullTranslations() if code == ENGLISH else _read_catalog(code)
        # Babel's has no decimal place, and English no space.
        percent = "#,##0 %" if code == ENGLISH else self._locale.percent_formats[None].pattern
        self._percent = percent.replace("0", "0.0", 1)
        self.context: dict[str, object] = {
            "lang": code,
            "dir": self._locale.text_direction,
            "_": self.gettext,
            "ngettext": self.ngettext,
            "number": self.number,
            "percent": self.percent,
            "date": self.date,
            "clock_time": self.time,
            "moment": self.moment,
            "ends": self.ends,
        }

    def gettext(self, msgid: str, **values: object) -> Markup:
        """Return the translation of a text or, with what it was made of, of a message."""
        if not isinstance(msgid, Message):
            return self._fill(self._texts.gettext(msgid), values)
        if msgid.plural is None:
            return self.gettext(msgid.msgid, **msgid.values)
        return self.ngettext(msgid.msgid, msgid.plural, **msgid.values)

    def ngettext(self, msgid: str, plural: str, num: int, **values: object) -> Markup:
        return self._fill(self._texts.ngettext(msgid, plural, num), {"num": num, **values})

    def _fill(self, text: str, values: dict[str, object]) -> Markup:
        shown = {name: self._show(value) for name, value in values.items()}
        return Markup(text) % shown if values else Markup(text)  # noqa: S704 - of a catalog

    def _show(self, value: Any) -> Any:
        match value:
            case Message():
                return self.gettext(value)
            case int():
                return self.number(value)
            case datetime():
                return self.moment(value)
            case list():
                return self.gettext(", ").join(map(self._show, value))
            case _:
                return value

    def number(self, value: float, pattern: str | None = None) -> str:
        return format_decimal(value, pattern, self._locale)

    def percent(self, share: float | None) -> str:
        """Return a percentage to one decimal place, a dash for None."""
        if share is None:
            return "\N{EN DASH}"
        return format_percent(share / 100, self._percent, self._locale)

    def date(self, at: datetime) -> str:
        return format_date(at, "long", self._locale)

    def time(self, at: datetime) -> str:
        return format_time(at, "medium", locale=self._locale)

    def moment(self, at: datetime) -> Markup:
        """Return an element with the day and the time to the minute."""
        time = format_time(at, "short", locale=self._locale)
        shown = self.gettext("%(date)s, %(time)s UTC", date=self.date(at), time=time)
        return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), shown)

    def ends(self, *times: datetime) -> list[str]:
        """Return the times at the ends of a timeline, as precise as its length asks."""
        duration = times[-1] - times[0]
        length = "short" if duration >= timedelta(hours=1) else "medium"
        shown = [format_time(each, length, locale=self._locale) for each in times]
        if duration < timedelta(days=1):
            return shown
        both = get_datetime_format("medium", self._locale)
        days = (format_skeleton("MMMd", each, locale=self._locale) for each in times)
        return [str(both).format(*each) for each in zip(shown, days, strict=True)]


@lru_cache
def get_language(code: LanguageCode, *, negotiated: bool = False) -> Language:
    return Language(code, negotiated=negotiated)


def negotiate(headers: RequestHeaders) -> Language:
    """Return the language that a client prefers of those that there are; English for any other."""
    return _best(headers.get(b"accept-language", b"")[:MAX_HEADER])


@lru_cache(maxsize=256)  # browsers send a few different ones
def _best(header: bytes) -> Language:
    code, best = ENGLISH, 0.0
    for item in header.decode("latin-1").lower().split(","):
        tag, *parameters = item.replace(" ", "").split(";")
        found = tag.partition("-")[0].replace("*", ENGLISH)
        weight = re.fullmatch(r"(?:q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?", ";".join(parameters))
        quality = float(weight[1] or 1) if weight else 0
        if found in LANGUAGES and quality > best:
            code, best = found, quality
    return get_language(code, negotiated=True)


def _read_catalog(code: LanguageCode) -> GNUTranslations:
    """Compile a catalog, in 20 ms: an installation has none to compile."""
    path = resources.files("voting.web") / "locales" / code / "LC_MESSAGES" / "voting.po"
    compiled = BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=code))
    compiled.seek(0)
    return GNUTranslations(compiled)
