"""The formats of exports, written piece by piece. Pure.

A document is a head, a body for each batch of items, and a tail.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from voting.poll.ballot import Choice
from voting.poll.results import PublicResult, TimelinePoint, as_dict

_Item = TypeVar("_Item")


class Csv(Generic[_Item]):
    """CSV as in RFC 4180, in UTF-8: a row of `names`, then `as_row` of each item."""

    media_type = "text/csv; charset=utf-8"
    tail = ""

    def __init__(self, names: Sequence[str], as_row: Callable[[_Item], Sequence[object]]) -> None:
        self.head = _rows([names])
        self._as_row = as_row

    def body(self, items: Sequence[_Item]) -> str:
        return _rows(map(self._as_row, items))


class Json(Generic[_Item]):
    """An object of `fields` and, last, the list `key`: `as_value` of each item, on its own line."""

    media_type = "application/json"
    tail = "\n]}\n"

    def __init__(
        self, fields: Mapping[str, Any], key: str, as_value: Callable[[_Item], object]
    ) -> None:
        self.head = json.dumps({**fields, key: []}, ensure_ascii=False).removesuffix("]}")
        self._as_value = as_value
        self._separator = "\n"

    def body(self, items: Sequence[_Item]) -> str:
        lines = (json.dumps(self._as_value(each), ensure_ascii=False) for each in items)
        text = self._separator + ",\n".join(lines)
        self._separator = ",\n"
        return text


Format: TypeAlias = Csv[_Item] | Json[_Item]


def _timeline_csv(result: PublicResult) -> Csv[TimelinePoint]:
    """A row for each point, with a column for each option; hidden counts have none."""
    names = () if result.hidden else (f"{each.key}: {each.name}" for each in result.options)
    return Csv(
        ["time", "votes", *names],
        lambda each: [each.time.isoformat(), each.counts.votes, *(each.counts.by_option or ())],
    )


def _timeline_json(result: PublicResult) -> Json[TimelinePoint]:
    """The fields of /api/tally, and the points; hidden counts are null."""

    def as_value(point: TimelinePoint) -> dict[str, object]:
        counts = point.counts
        return {
            "time": point.time.isoformat(),
            "votes": counts.votes,
            "options": counts.by_option,
        }

    return Json(as_dict(result), "timeline", as_value)


def _votes_csv(result: PublicResult) -> Csv[Choice]:
    """A row for each vote: its choice and the option's name."""
    return Csv(["vote", "option"], lambda choice: [choice, result.question.name(choice)])


def _votes_json(result: PublicResult) -> Json[Choice]:
    """The totals, and the choice of each vote."""
    return Json(as_dict(result), "choices", str)


TIMELINE: Mapping[str, Callable[[PublicResult], Format[TimelinePoint]]] = {
    "csv": _timeline_csv,
    "json": _timeline_json,
}
VOTES: Mapping[str, Callable[[PublicResult], Format[Choice]]] = {
    "csv": _votes_csv,
    "json": _votes_json,
}


def _rows(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
