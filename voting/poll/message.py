"""Messages that commands print in English and pages show in their own language. Pure.

A message is English text that keeps what it was made of, from which `voting.web.languages` makes
the translation. Babel finds the calls of `gettext` and `ngettext`, by which there are translations.
"""

from datetime import UTC, datetime
from typing import Any, Self


class Message(str):
    """The English text of `msgid` with its values: texts, numbers, times, other messages, lists."""

    __slots__ = ("msgid", "num", "plural", "values")

    msgid: str
    plural: str | None
    """The form for another `num` than 1; None where nothing is counted."""
    num: int
    values: dict[str, Any]

    def __new__(cls, msgid: str, plural: str | None, num: int, values: dict[str, Any]) -> Self:
        form = msgid if plural is None or num == 1 else plural
        english = {name: _english(value) for name, value in values.items()}
        made = super().__new__(cls, form % english if values else form)
        made.msgid, made.plural, made.num, made.values = msgid, plural, num, values
        return made


def gettext(msgid: str, **values: Any) -> Message:
    return Message(msgid, None, 1, values)


def ngettext(msgid: str, plural: str, num: int, **values: Any) -> Message:
    """Return the form for the number `num`, which is one of the values."""
    return Message(msgid, plural, num, {"num": num, **values})


def in_utc(at: datetime | None) -> str:
    return "?" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _english(value: object) -> str:
    match value:
        case int():
            return f"{value:,}"
        case datetime():
            return in_utc(value)
        case list():
            return ", ".join(map(_english, value))
    return str(value)
