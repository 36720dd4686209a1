"""The text of an export, piece by piece. Pure: no input, no output.

Each format has a head, a body for each batch of what is exported, and a tail.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from voting.poll.results import PublicResult, TimelinePoint, as_dict
from voting.settings import PollSettings

_Item_contra = TypeVar("_Item_contra", contravariant=True)


class Format(Protocol[_Item_contra]):
    """Turns a head, then batches of items, then a tail into text."""

    media_type: str

    def head(self) -> str: ...

    def body(self, items: Sequence[_Item_contra]) -> str: ...

    def tail(self) -> str: ...


class _Csv:
    """Lines end as RFC 4180 has it, and text is UTF-8."""

    media_type = "text/csv; charset=utf-8"

    def tail(self) -> str:
        return ""


class _Json:
    """An object with a list at its end, an item on each line."""

    media_type = "application/json"

    def __init__(self, key: str, facts: dict[str, object]) -> None:
        self._head = json.dumps({**facts, key: []}, ensure_ascii=False)
        self._separator = "\n"

    def head(self) -> str:
        return self._head.removesuffix("]}")

    def tail(self) -> str:
        return "\n]}\n"

    def _lines(self, items: Iterable[object]) -> str:
        text = self._separator + ",\n".join(json.dumps(each, ensure_ascii=False) for each in items)
        self._separator = ",\n"
        return text


class TimelineCsv(_Csv):
    """A row for each point; what is kept back has no column."""

    def __init__(self, shown: PublicResult, poll: PollSettings) -> None:
        self._names = [] if shown.hidden else [f"a: {poll.option_a}", f"b: {poll.option_b}"]

    def head(self) -> str:
        return _rows([["time", "votes", *self._names]])

    def body(self, items: Sequence[TimelinePoint]) -> str:
        return _rows(
            [each.time.isoformat(), each.counts.votes]
            + ([each.counts.a, each.counts.b] if self._names else [])
            for each in items
        )


class TimelineJson(_Json):
    """What /api/tally tells, and the points; what is kept back is null."""

    def __init__(self, shown: PublicResult, poll: PollSettings) -> None:
        super().__init__("timeline", as_dict(shown, poll))

    def body(self, items: Sequence[TimelinePoint]) -> str:
        return self._lines(
            {
                "time": each.time.isoformat(),
                "a": each.counts.a,
                "b": each.counts.b,
                "votes": each.counts.votes,
            }
            for each in items
        )


class VotesCsv(_Csv):
    """A row for each vote: the choice, and what it stands for."""

    def __init__(self, _: PublicResult, poll: PollSettings) -> None:
        self._names = {"a": poll.option_a, "b": poll.option_b}

    def head(self) -> str:
        return _rows([["vote", "option"]])

    def body(self, items: Sequence[str]) -> str:
        return _rows([each, self._names[each]] for each in items)


class VotesJson(_Json):
    """The totals, and the choice of each vote."""

    def __init__(self, shown: PublicResult, poll: PollSettings) -> None:
        super().__init__("choices", as_dict(shown, poll))

    def body(self, items: Sequence[str]) -> str:
        return self._lines(items)


TIMELINE: dict[str, type[TimelineCsv] | type[TimelineJson]] = {
    "csv": TimelineCsv,
    "json": TimelineJson,
}
VOTES: dict[str, type[VotesCsv] | type[VotesJson]] = {"csv": VotesCsv, "json": VotesJson}


def _rows(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
