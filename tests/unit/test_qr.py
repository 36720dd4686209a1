import re

import pytest
import segno

from voting.web.svg import QUIET_ZONE, qr_code


def dark(path):
    """Return the modules that a path makes dark."""
    found = set()
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
        found |= {(int(x) + each - QUIET_ZONE, int(y) - QUIET_ZONE) for each in range(int(width))}
    return found


@pytest.mark.parametrize("address", ["http://vote.localhost:8080", "https://é.example/" + "x" * 99])
def test_the_path_has_the_modules_of_the_code(address):
    made = qr_code(address)
    matrix = segno.make(address, error="l", micro=False).matrix
    expected = {(x, y) for y, row in enumerate(matrix) for x, module in enumerate(row) if module}
    assert dark(made.path) == expected
    assert made.size == len(matrix) + 2 * QUIET_ZONE
