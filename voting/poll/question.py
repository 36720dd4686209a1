"""The question of a round: a title, and two to twelve options. Pure."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from voting.poll.ballot import Choice
from voting.poll.message import Message
from voting.poll.message import gettext as _

CHOICES = tuple(Choice)

MIN_OPTIONS, MAX_OPTIONS = 2, len(CHOICES)
MAX_TITLE, MAX_NAME = 200, 60  # characters

# Control and format characters, halves of a surrogate pair, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

# The format characters that words and emoji need: joiners, the marks of a direction, which end with
# the next letter, and the tags of a flag.
_NEEDED = {*"\u061c\u200c\u200d\u200e\u200f", *map(chr, range(0xE0020, 0xE0080))}

# White space, and marks that change the character before them.
_INVISIBLE = {*_UNPRINTABLE, "Zs", "Mn", "Me"}

# Letters and a symbol that are blank: the fillers of Hangul, and a pattern of Braille without dots.
_BLANK = {*"\u115f\u1160\u3164\uffa0\u2800"}


class Option(NamedTuple):
    """What voters may choose."""

    key: Choice
    name: str


@dataclass(frozen=True, slots=True)
class Question:
    """A title and the names of the options, in order: the first has the key `a`."""

    title: str = "Cats or Dogs?"
    names: tuple[str, ...] = ("Cats", "Dogs")

    @classmethod
    def of(cls, title: str, names: Sequence[str]) -> Self:
        """Return the question without white space at the ends. It may be invalid."""
        return cls(title.strip(), tuple(name.strip() for name in names))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The keys of the options, in order."""
        return CHOICES[: len(self.names)]

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(map(Option, self.choices, self.names))

    def name(self, choice: Choice) -> str:
        """Return the name of an option. Raises IndexError if there is none of that key."""
        return self.names[CHOICES.index(choice)]

    def describe(self, counts: Sequence[int]) -> str:
        """Return the votes of each option, as "Cats 1,234, Dogs 987"."""
        return ", ".join(self.list_votes(counts))

    def list_votes(self, counts: Sequence[int]) -> list[Message]:
        """Return the votes of each option, in the order of the options."""
        return [
            _("%(option)s %(votes)s", option=name, votes=votes)
            for name, votes in zip(self.names, counts, strict=True)
        ]

    def find_problems(self) -> list[Message]:
        """Return what is wrong with it, a line each."""
        problems = [
            _("the title %(problem)s", problem=each)
            for each in find_text_problems(self.title, MAX_TITLE)
        ]
        if not MIN_OPTIONS <= len(self.names) <= MAX_OPTIONS:
            count = len(self.names)
            problems.append(
                _(
                    "%(least)s to %(most)s options are needed, not %(count)s",
                    least=MIN_OPTIONS,
                    most=MAX_OPTIONS,
                    count=count,
                )
            )
        for number, name in enumerate(self.names, start=1):
            problems += [
                _("option %(number)s %(problem)s", number=number, problem=each)
                for each in find_text_problems(name, MAX_NAME)
            ]
            same = (n for n, each in enumerate(self.names, start=1) if is_same_text(each, name))
            if name and (first := next(same)) != number:
                problems.append(
                    _(
                        "option %(number)s is the same as option %(first)s",
                        number=number,
                        first=first,
                    )
                )
        return problems


def find_text_problems(text: str, limit: int) -> Iterator[Message]:
    """Yield what is wrong with a title or a name of at most `limit` characters."""
    if not text:
        yield _("is empty")
    elif all(each in _BLANK or unicodedata.category(each) in _INVISIBLE for each in text):
        yield _("has no visible character")
    if len(text) > limit:
        yield _(
            "has %(count)s characters, %(limit)s at most are possible",
            count=len(text),
            limit=limit,
        )
    if any(unicodedata.category(each) in _UNPRINTABLE for each in {*text} - _NEEDED):
        yield _("has a control character")


def is_same_text(one: str, other: str) -> bool:
    """Whether two texts look the same, however their letters are composed."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
