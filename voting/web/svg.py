"""SVG paths: the timeline of a poll, and a QR code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import segno

from voting.poll.results import PublicResult

# In units of the SVG's viewBox, which the page stretches.
WIDTH, HEIGHT = 1000, 200
MARGIN = 9  # outside of the viewBox, which clips the outline of the area there

QUIET_ZONE = 4  # light modules around a QR code, by ISO/IEC 18004


@dataclass(frozen=True, slots=True)
class Drawing:
    """The shares of all votes, stacked, or the turnout while results are hidden."""

    paths: tuple[str, ...]
    """Areas to draw from the last to the first on a ground of the last option: each covers an
    option but the last, and those before it. While results are hidden, one: the turnout."""
    start: datetime
    end: datetime
    shares: tuple[tuple[float, ...], ...]
    """Percentages in the order of time, of each option; empty while results are hidden."""

    @property
    def middles(self) -> tuple[float, ...]:
        """How far down the middle of each option's area is at the end, as a percentage."""
        last = [each[-1] for each in self.shares]
        return tuple(100 - sum(last[:n]) - each / 2 for n, each in enumerate(last))


def draw(result: PublicResult | None) -> Drawing | None:
    """Return the drawing, or None before the first vote."""
    points = result.timeline if result else ()
    if result is None or not points or not points[-1].counts.votes:
        return None
    start, end = points[0].time, points[-1].time
    # There are no shares before the first vote: the first share is drawn from the start on.
    drawn = points if result.hidden else [each for each in points if each.counts.votes]
    most = points[-1].counts.votes
    shares = [each.counts.shares or () for each in drawn]
    heights = [
        [sum(each[:n]) / 100 for each in shares] for n in range(1, len(result.question.names))
    ]
    if result.hidden:
        heights = [[each.counts.votes / most for each in drawn]]
    xs = [0, *(round(WIDTH * ((each.time - start) / (end - start))) for each in drawn)]
    return Drawing(
        tuple(_path(xs, each) for each in heights),
        start,
        end,
        () if result.hidden else tuple(zip(*shares, strict=True)),
    )


def _path(xs: Sequence[int], heights: Sequence[float]) -> str:
    """Return the outline: up at the left, along the line of heights up to 1, down at the right.

    Relative commands, and no point twice: the path is part of each response.
    """
    first, *ys = (round(HEIGHT * (1 - height)) for height in (heights[0], *heights))
    moves = [f"M{-MARGIN} {HEIGHT + MARGIN}V{first}h{MARGIN}"]
    x, y = 0, first
    for to_x, to_y in zip(xs[1:], ys, strict=True):
        if (to_x, to_y) != (x, y):
            moves.append(f"h{to_x - x}" if to_y == y else f"l{to_x - x} {to_y - y}")
            x, y = to_x, to_y
    return "".join(moves) + f"h{MARGIN}V{HEIGHT + MARGIN}z"


@dataclass(frozen=True, slots=True)
class QrCode:
    """`path` draws the dark modules, each 1 x 1; `size` includes the quiet zone on both sides."""

    path: str
    size: int


def qr_code(address: str) -> QrCode:
    """Return the code of an address with as few modules as possible, so that they are large."""
    matrix = segno.make(address, error="l", boost_error=True, micro=False).matrix
    path = ""
    for y, row in enumerate(matrix, start=QUIET_ZONE):
        x = QUIET_ZONE
        for dark, run in groupby(row):
            width = len(list(run))
            path += f"M{x} {y}h{width}v1h-{width}z" if dark else ""
            x += width
    return QrCode(path, len(matrix) + 2 * QUIET_ZONE)


def address_and_code(url: str | None) -> tuple[str, QrCode | None]:
    """Return the address of a page without its scheme, for people, and as a code for phones."""
    return re.sub(r"^https?://", "", url or ""), qr_code(url) if url else None
