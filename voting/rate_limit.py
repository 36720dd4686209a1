"""How often somebody may do something: in memory, so that asking costs no round trip."""

from collections.abc import Callable
from time import monotonic

PERIOD = 60.0  # seconds

# Who is remembered, twice: 15 MB. Where more come in a minute, the first are forgotten sooner: this
# is about one who comes often, not about a crowd.
MOST = 50_000


class RateLimit:
    """At most `times` in a row, and as many again in each minute after. 0 is no limit.

    The generic cell rate algorithm: for each voter it keeps one time, at which all that was taken
    is free again. Source: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

    Each process counts for itself: who is spread over several may do so much with each.
    """

    def __init__(self, times: int, clock: Callable[[], float] = monotonic) -> None:
        self._times = times
        self._clock = clock
        self._each = PERIOD / times if times else 0.0
        # Those of this minute, and of the one before: nobody's time is further away.
        self._recent: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._turn = clock()

    def take(self, voter: int) -> float:
        """Take one and return 0, or return the seconds after which there is one again."""
        if not self._times:
            return 0.0
        now = self._clock()
        if now - self._turn >= PERIOD or len(self._recent) >= MOST:
            self._before, self._recent, self._turn = self._recent, {}, now
        free = max(self._recent.get(voter) or self._before.get(voter, 0.0), now) + self._each
        if (wait := free - now - PERIOD) > 0:
            return wait
        self._recent[voter] = free
        return 0.0

    def give_back(self, voter: int) -> None:
        """Undo a `take` that came to nothing."""
        if voter in self._recent:
            self._recent[voter] -= self._each
