"""Drawing how a vote went, as the path of an SVG. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from voting.poll.results import PublicResult

# Of the drawing, in units of its own: the page stretches it.
WIDTH, HEIGHT = 1000, 200
MARGIN = 9  # around it, where the area's outline is cut off


@dataclass(frozen=True, slots=True)
class Drawing:
    """An area: under it is what option `a` has of all votes or, while that is kept back, all."""

    path: str
    start: str
    end: str
    shares: tuple[float, ...]
    """Percentages of `a`, in order; none while they are kept back."""


def draw(shown: PublicResult | None) -> Drawing | None:
    """Draw the timeline; None where there is nothing to draw yet."""
    points = shown.timeline if shown else ()
    if shown is None or not points or not points[-1].counts.votes:
        return None
    start, end = points[0].time, points[-1].time
    # Before the first vote there are no shares: the first ones go back to the start.
    drawn = points if shown.hidden else [each for each in points if each.counts.votes]
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
    form = _form(end - start)
    shares = () if shown.hidden else tuple(100 * each for each in heights)
    return Drawing(_path(line), start.strftime(form), end.strftime(form), shares)


def _path(line: Sequence[tuple[int, int]]) -> str:
    """Go up at the left, along the line, and down at the right, both out of sight.

    In few characters, as each is sent.
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


def _form(duration: timedelta) -> str:
    if duration >= timedelta(days=1):
        return "%d %b, %H:%M"
    return "%H:%M" if duration >= timedelta(hours=1) else "%H:%M:%S"
