"""A QR code as an SVG path."""

from dataclasses import dataclass
from itertools import groupby

import segno

QUIET_ZONE = 4  # light modules around the code, by ISO/IEC 18004


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
