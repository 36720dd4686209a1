"""The formats of exports, written piece by piece. Pure.

A document is a head, a body for each batch of items, and a tail.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from voting.poll.question import Question
from voting.poll.results import PublicResult, TimelinePoint, as_dict

_Item_contra = TypeVar("_Item_contra", contravariant=True)


class Format(Protocol[_Item_contra]):
    """Writes one document: `head`, then `body` for each batch of items, then `tail`."""

    media_type: str

    def head(self) -> str: ...

    def body(self, items: Sequence[_Item_contra]) -> str: ...

    def tail(self) -> str: ...


class _Csv:
    """CSV as in RFC 4180, in UTF-8."""

    media_type = "text/csv; charset=utf-8"

    def tail(self) -> str:
        return ""


class _Json:
    """An object whose last value is a list, with an item on each line."""

    media_type = "application/json"

    def __init__(self, key: str, fields: dict[str, object]) -> None:
        self._head = json.dumps({**fields, key: []}, ensure_ascii=False)
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
    """A row for each point; hidden counts have no column."""

    def __init__(self, result: PublicResult, question: Question) -> None:
        names = [f"a: {question.option_a}", f"b: {question.option_b}"]
        self._names = [] if result.hidden else names

    def head(self) -> str:
        return _rows([["time", "votes", *self._names]])

    def body(self, items: Sequence[TimelinePoint]) -> str:
        return _rows(
            [each.time.isoformat(), each.counts.votes]
            + ([each.counts.a, each.counts.b] if self._names else [])
            for each in items
        )


class TimelineJson(_Json):
    """The fields of /api/tally, and the points; hidden counts are null."""

    def __init__(self, result: PublicResult, question: Question) -> None:
        super().__init__("timeline", as_dict(result, question))

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
    """A row for each vote: its choice and the option's name."""

    def __init__(self, _: PublicResult, question: Question) -> None:
        self._names = {"a": question.option_a, "b": question.option_b}

    def head(self) -> str:
        return _rows([["vote", "option"]])

    def body(self, items: Sequence[str]) -> str:
        return _rows([each, self._names[each]] for each in items)


class VotesJson(_Json):
    """The totals, and the choice of each vote."""

    def __init__(self, result: PublicResult, question: Question) -> None:
        super().__init__("choices", as_dict(result, question))

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
