"""Starts a role as `python -m voting` does, with patches: `python -m faults.role NAME...`."""

import sys

from faults import patches
from voting.__main__ import main

if __name__ == "__main__":
    for name in sys.argv[1:]:
        getattr(patches, name)()
    sys.argv[1:] = []
    main()
