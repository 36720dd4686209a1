"""How often somebody may do something: in memory, so that asking costs no round trip."""

from array import array
from collections.abc import Callable
from time import monotonic

PERIOD = 60.0  # seconds

# Who is remembered, with 16 bytes each: 2 MB. One is forgotten sooner where somebody else falls on
# the same slot, half of all after 90,000 others: this is about who comes often, not about a crowd.
# Who has two cookies for one slot can have each forgotten with the other. That is no way around:
# whoever can get them can vote with a new one each time.
SLOTS = 2**17


class RateLimit:
    """At most `times` in a row, and as many again in each minute after. 0 is no limit.

    The generic cell rate algorithm: for each voter, 128 random bits, it keeps one time, at which
    all that was taken is free again.
    Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

    Each process counts for itself: who is spread over several may do so much with each.
    """

    def __init__(self, times: int, clock: Callable[[], float] = monotonic) -> None:
        self._times = times
        self._clock = clock
        self._each = PERIOD / times if times else 0.0
        slots = SLOTS if times else 0
        self._voters = array("Q", bytes(8 * slots))  # the upper half of each; the lower is the slot
        self._free = array("d", bytes(8 * slots))

    def take(self, voter: int) -> float:
        """Take one and return 0, or return the seconds after which there is one again."""
        if not self._times:
            return 0.0
        now = self._clock()
        slot, upper = voter % SLOTS, voter >> 64
        known = self._free[slot] if self._voters[slot] == upper else 0.0
        free = max(known, now) + self._each
        if (wait := free - now - PERIOD) > 0:
            return wait
        self._voters[slot] = upper
        self._free[slot] = free
        return 0.0

    def give_back(self, voter: int) -> None:
        """Undo a `take` that came to nothing."""
        slot = voter % SLOTS
        if self._times and self._voters[slot] == voter >> 64:
            self._free[slot] -= self._each
