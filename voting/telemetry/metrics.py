"""All that the roles measure, by role. None tells votes by option: totals may be hidden.

Each role has a registry, so that /metrics has no family of another role, which would read as a 0.
What can't be known at the moment is NaN. Names follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Mapping
from math import nan

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from voting.poll.lifecycle import Phase

# A series more for each counter and histogram, and nobody asks for it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# Seconds: from what memory answers to beyond each timeout; a sync to disk takes one to some tens of
# milliseconds.
_QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

# Seconds: from a batch that is counted at once to a database that was away for an hour.
_PATIENT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)

# Every role. The client library has put there what it tells of the process and of Python.

_EVERY = prometheus_client.REGISTRY

BUILD = Gauge(
    "voting_build_info",
    "The running version, as labels of a constant 1.",
    ["version", "commit", "role"],
)
READY = Gauge(
    "voting_ready", "Whether the role could do its work when it was last asked.", ["role"]
)

# Vote.

_VOTE = CollectorRegistry()

REASONS = (
    "cross_origin",  # it came from another site
    "no_cookie",
    "invalid_form",  # it is not what the page sends
    "too_large",
    "rate_limited",  # more than VOTES_PER_MINUTE
    "closed",
    "unavailable",  # Redis is away, or no worker has prepared it
    "full",  # Redis' memory
    "unknown",  # it was sent and no answer came: recorded or not
    "other",
)

ACCEPTED = Counter(
    "voting_ballots_accepted", "Ballots acknowledged to their voters.", registry=_VOTE
)
REFUSED = Counter(
    "voting_ballots_refused",
    "Requests to vote that were not acknowledged, by why; one that is unknown may be recorded.",
    ["reason"],
    registry=_VOTE,
)
ACCEPT_SECONDS = Histogram(
    "voting_ballot_accept_duration_seconds",
    "Time from the start of a request to vote until its ballot was on disk; accepted ones only.",
    buckets=_QUICK,
    registry=_VOTE,
)
IN_FLIGHT = Gauge(
    "voting_ballots_in_flight", "Requests to vote that are not answered yet.", registry=_VOTE
)

# Worker: what this process does.

_WORKER = CollectorRegistry()

COUNTED = Counter(
    "voting_ballots_counted", "Ballots committed, repeats included.", registry=_WORKER
)
REDELIVERED = Counter(
    "voting_ballots_redelivered",
    "Stream entries taken over from a worker that had not finished them.",
    registry=_WORKER,
)
DEAD = Counter("voting_dead_letters", "Stream entries that can never be counted.", registry=_WORKER)
BATCH_BALLOTS = Histogram(
    "voting_batch_ballots",
    "Ballots that were committed together.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
    registry=_WORKER,
)
COUNT_SECONDS = Histogram(
    "voting_count_duration_seconds",
    "Time of the statement that counts a batch, its commit included; successful ones only.",
    buckets=_QUICK,
    registry=_WORKER,
)
ACCEPT_TO_COUNT_SECONDS = Histogram(
    "voting_accept_to_count_seconds",
    "Time from the accept of a ballot to its commit, by Redis' clock; of each batch the oldest.",
    buckets=_PATIENT,
    registry=_WORKER,
)

# Worker: what all workers together have left to do, as each of them sees it.


def _watched(name: str, meaning: str) -> Gauge:
    gauge = Gauge(name, meaning, registry=_WORKER)
    gauge.set(nan)
    return gauge


BACKLOG = _watched("voting_backlog_ballots", "Ballots accepted and not counted yet.")
BACKLOG_AGE = _watched(
    "voting_backlog_age_seconds",
    "Time since the accept of the oldest ballot that is not counted yet; 0 where none waits.",
)
PENDING = _watched(
    "voting_pending_ballots", "Those of the backlog that a worker has, or had when it died."
)
STREAM_ENTRIES = _watched(
    "voting_stream_entries", "Entries of the stream, those included that are counted and kept."
)
DEAD_LETTER_ENTRIES = _watched("voting_dead_letter_entries", "Dead letters that there are now.")
MEMORY_USED = _watched(
    "voting_redis_memory_used_ratio",
    "Share of maxmemory that Redis uses; votes are refused from 0.9 on.",
)
FSYNC_ALWAYS = _watched(
    "voting_redis_fsync_always",
    "Whether Redis syncs a write to disk before it answers, as tried; 0 where votes may be lost.",
)

# Result.

_RESULT = CollectorRegistry()

OUTCOMES = ("success", "failed")
STATUSES = ("200", "304")

TOTALS_QUERIES = Counter(
    "voting_totals_queries",
    "Questions for the totals to Postgres, by outcome.",
    ["outcome"],
    registry=_RESULT,
)
TOTALS_SECONDS = Histogram(
    "voting_totals_query_duration_seconds",
    "Time that Postgres took for the totals; successful queries only.",
    buckets=_QUICK,
    registry=_RESULT,
)
TOTALS_AGE = Gauge(
    "voting_totals_age_seconds",
    "Time since Postgres told the totals that are shown; they are asked for while somebody looks.",
    registry=_RESULT,
)
TOTALS_AGE.set(nan)
VOTES_COUNTED = Gauge(
    "voting_votes_counted", "Votes counted, of all options together.", registry=_RESULT
)
VOTES_COUNTED.set(nan)
PHASE = Gauge(
    "voting_poll_phase",
    "1 for where in its life the poll is: open, counting or final.",
    ["phase"],
    registry=_RESULT,
)
for _phase in Phase:
    PHASE.labels(_phase).set(nan)
RESULT_RESPONSES = Counter(
    "voting_result_responses",
    "Answers to viewers, by HTTP status; 304 says that nothing has changed.",
    ["status"],
    registry=_RESULT,
)

# From the start as 0, so that the first of a kind is an increase.
for _counter, _words in (
    (REFUSED, REASONS),
    (TOTALS_QUERIES, OUTCOMES),
    (RESULT_RESPONSES, STATUSES),
):
    for _word in _words:
        _counter.labels(_word)

OF_ROLE: Mapping[str, CollectorRegistry] = {"vote": _VOTE, "worker": _WORKER, "result": _RESULT}


def exposition(role: str) -> bytes:
    """Write what that role tells, in Prometheus' text format."""
    generate = prometheus_client.generate_latest
    return generate(_EVERY) + generate(OF_ROLE[role])
