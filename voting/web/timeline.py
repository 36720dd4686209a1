"""The timeline of a poll as an SVG path."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from voting.poll.results import PublicResult

# In units of the SVG's viewBox, which the page stretches.
WIDTH, HEIGHT = 1000, 200
MARGIN = 9  # outside of the viewBox, which clips the outline of the area there


@dataclass(frozen=True, slots=True)
class Drawing:
    """The area below the share of option `a` or, while results are hidden, below the turnout."""

    path: str
    start: str
    end: str
    shares: tuple[float, ...]
    """Percentages of option `a` in order; empty while results are hidden."""


def draw(result: PublicResult | None) -> Drawing | None:
    """Return the drawing, or None before the first vote."""
    points = result.timeline if result else ()
    if result is None or not points or not points[-1].counts.votes:
        return None
    start, end = points[0].time, points[-1].time
    # There are no shares before the first vote: the first share is drawn from the start on.
    drawn = points if result.hidden else [each for each in points if each.counts.votes]
    most = points[-1].counts.votes
    heights = [
        (each.counts.votes / most if shares is None else shares["a"] / 100)
        for each in drawn
        for shares in (each.counts.shares,)
    ]
    line = [(0, round(HEIGHT * (1 - heights[0])))]
    line += [
        (round(WIDTH * ((each.time - start) / (end - start))), round(HEIGHT * (1 - height)))
        for each, height in zip(drawn, heights, strict=True)
    ]
    time_format = _time_format(end - start)
    shares = () if result.hidden else tuple(100 * each for each in heights)
    return Drawing(_path(line), start.strftime(time_format), end.strftime(time_format), shares)


def _path(line: Sequence[tuple[int, int]]) -> str:
    """Return the outline: up at the left, along the line, down at the right.

    Relative commands, and no point twice: the path is part of each response.
    """
    (_, first), *others = line
    moves = [f"M{-MARGIN} {HEIGHT + MARGIN}V{first}h{MARGIN}"]
    x, y = 0, first
    for to_x, to_y in others:
        if to_x == x and to_y == y:
            continue
        moves.append(f"h{to_x - x}" if to_y == y else f"l{to_x - x} {to_y - y}")
        x, y = to_x, to_y
    return "".join(moves) + f"h{MARGIN}V{HEIGHT + MARGIN}z"


def _time_format(duration: timedelta) -> str:
    if duration >= timedelta(days=1):
        return "%d %b, %H:%M"
    return "%H:%M" if duration >= timedelta(hours=1) else "%H:%M:%S"
