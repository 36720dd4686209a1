"""Starts a role as `python -m voting` does, with patches: `python -m faults.role NAME...`."""

import sys

from faults.patches import PATCHES
from voting.__main__ import main
from voting.roles import worker

# Seconds instead of a quarter of a minute, so that entries are claimed much more often, also from
# workers that are only slow.
TAKE_OVER = 1.0
HOUSEKEEPING = 0.5

if __name__ == "__main__":
    worker.Worker.__init__.__kwdefaults__["idle"] = TAKE_OVER
    worker.HOUSEKEEPING = HOUSEKEEPING
    for name in sys.argv[1:]:
        PATCHES[name]()
    sys.argv[1:] = []
    main()
