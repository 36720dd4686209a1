"""Starts a role as `python -m voting` does, with patches: `python -m faults.role NAME...`."""

import sys

from faults.patches import PATCHES
from voting.__main__ import main

if __name__ == "__main__":
    for name in sys.argv[1:]:
        PATCHES[name]()
    sys.argv[1:] = []
    main()
