"""A QR code as the path of an SVG."""

from dataclasses import dataclass
from itertools import groupby

import segno

QUIET = 4  # light modules around the code, by ISO/IEC 18004


@dataclass(frozen=True, slots=True)
class Code:
    """Its dark modules, each of them one by one; `size` has the quiet zone in it."""

    path: str
    size: int


def code(address: str) -> Code:
    """Make the code of an address: as few modules as it needs, so that they are large."""
    matrix = segno.make(address, error="l", boost_error=True, micro=False).matrix
    path = ""
    for y, row in enumerate(matrix, start=QUIET):
        x = QUIET
        for dark, run in groupby(row):
            width = len(list(run))
            path += f"M{x} {y}h{width}v1h-{width}z" if dark else ""
            x += width
    return Code(path, len(matrix) + 2 * QUIET)
