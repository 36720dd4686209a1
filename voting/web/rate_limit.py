"""A rate limit for each voter: in memory, so that it costs no round trip."""

from array import array
from collections.abc import Callable
from time import monotonic_ns

# Nanoseconds. Integers throughout: with floats, `now + 60 - now - 60` may be above 0, and the first
# request of a voter with a limit of 1 was refused at some instants.
PERIOD = 60_000_000_000

# 131,072 slots of 16 bytes: 2 MB. A slot collision evicts the earlier voter; after 90,000 other
# voters half are evicted. Acceptable: the limit targets frequent voters, not crowds. A client with
# two cookies of one slot can evict each with the other, but a client that collects cookies can as
# well vote with a new one each time.
SLOTS = 2**17


class RateLimit:
    """Allows bursts of `limit` requests, refilled at `limit` a minute. 0 is no limit.

    The generic cell rate algorithm: it stores one time for each voter (128 random bits), at which
    the whole burst is available again.
    Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

    Each process has its own: a voter whose requests reach several has the limit in each.
    """

    def __init__(self, limit: int, clock: Callable[[], int] = monotonic_ns) -> None:
        self._limit = limit
        self._clock = clock
        self._interval = -(-PERIOD // limit) if limit else 0  # rounded up
        self._burst = limit * self._interval
        slots = SLOTS if limit else 0
        self._voters = array("Q", bytes(8 * slots))  # the upper half of each; the lower is the slot
        self._full_at = array("Q", bytes(8 * slots))

    def acquire(self, voter: int) -> float:
        """Take one and return 0, or return the seconds until one is available."""
        if not self._limit:
            return 0.0
        now = self._clock()
        slot, upper = voter % SLOTS, voter >> 64
        full_at = self._full_at[slot] if self._voters[slot] == upper else 0
        full_at = max(full_at, now) + self._interval
        if (wait := full_at - now - self._burst) > 0:
            return wait / 1e9
        self._voters[slot] = upper
        self._full_at[slot] = full_at
        return 0.0

    def refund(self, voter: int) -> None:
        """Undo an `acquire` of a request that had no effect."""
        slot = voter % SLOTS
        if self._limit and self._voters[slot] == voter >> 64:
            self._full_at[slot] -= self._interval
