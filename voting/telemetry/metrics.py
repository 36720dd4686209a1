"""The metrics of each role. None has votes by option, since totals may be hidden.

Each role has its own registry, so that /metrics has no metrics of other roles, which would read as
0. `NaN` is a value that is unknown at the moment.
Names follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Mapping
from math import nan

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# They add a series to each counter and histogram, and no dashboard uses them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# Seconds, from a cache hit to beyond every timeout; an fsync takes one to some tens of
# milliseconds.
_QUICK = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

# Seconds, from a batch counted at once to a database that was down for an hour.
_PATIENT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)

# Every role. The client library adds metrics of the process and of Python.
_EVERY = prometheus_client.REGISTRY

BUILD = Gauge(
    "voting_build_info",
    "The running version, as labels of a constant 1.",
    ["version", "commit", "role"],
)
READY = Gauge("voting_ready", "Whether the role was ready at the last probe.", ["role"])

# Vote.

_VOTE = CollectorRegistry()

REASONS = (
    "cross_origin",  # sent by the page of another site
    "no_cookie",
    "invalid_form",  # not the page's form
    "too_large",
    "rate_limited",  # more often than VOTES_PER_MINUTE
    "closed",
    "round_over",  # of a page that shows an earlier question
    "unavailable",  # Redis is down, or no worker has created the stream
    "full",  # Redis' memory is low
    "unknown",  # sent without a reply: may be recorded
    "other",
)

ACCEPTED = Counter(
    "voting_ballots_accepted", "Ballots acknowledged to their voters.", registry=_VOTE
)
REFUSED = Counter(
    "voting_ballots_refused",
    "Requests to vote that were not acknowledged, by reason; those of `unknown` may be recorded.",
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
    "voting_ballots_in_flight", "Requests to vote without a response yet.", registry=_VOTE
)

# Worker: what this process does.

_WORKER = CollectorRegistry()

COUNTED = Counter(
    "voting_ballots_counted", "Ballots committed, including redelivered ones.", registry=_WORKER
)
REDELIVERED = Counter(
    "voting_ballots_redelivered",
    "Stream entries claimed from a worker that did not acknowledge them.",
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
    "Time of the statement that counts a batch, including its commit; successful ones only.",
    buckets=_QUICK,
    registry=_WORKER,
)
ACCEPT_TO_COUNT_SECONDS = Histogram(
    "voting_accept_to_count_seconds",
    "Time from accept to commit of the oldest ballot of each batch, by Redis' clock.",
    buckets=_PATIENT,
    registry=_WORKER,
)

# Worker: the state of the queue, measured by every worker.


def _monitored(name: str, meaning: str) -> Gauge:
    gauge = Gauge(name, meaning, registry=_WORKER)
    gauge.set(nan)
    return gauge


BACKLOG = _monitored("voting_backlog_ballots", "Ballots accepted and not counted yet.")
BACKLOG_AGE = _monitored(
    "voting_backlog_age_seconds",
    "Time since the accept of the oldest uncounted ballot; 0 if there is none.",
)
PENDING = _monitored(
    "voting_pending_ballots", "Ballots of the backlog delivered to a worker, dead or alive."
)
STREAM_ENTRIES = _monitored(
    "voting_stream_entries", "Entries of the stream, including counted ones."
)
DEAD_LETTER_ENTRIES = _monitored(
    "voting_dead_letter_entries", "Dead letters kept beside the stream."
)
MEMORY_USED = _monitored(
    "voting_redis_memory_used_ratio",
    "Share of its memory that Redis uses; votes are refused above 0.9.",
)
QUEUE_REPLICAS = _monitored(
    "voting_queue_replicas", "Replicas of Redis that follow closely enough to acknowledge votes."
)
QUEUE_REPLICAS_REQUIRED = _monitored(
    "voting_queue_replicas_required",
    "Replicas that must have a vote on disk before it is acknowledged; with fewer, none is.",
)
PROBLEMS = _monitored(
    "voting_integrity_problems",
    "Reasons why totals can't be declared final: unsafe settings, or votes that are missing.",
)
FSYNC_ALWAYS = _monitored(
    "voting_redis_fsync_always",
    "Whether Redis fsyncs a write before it replies, by probing; at 0 votes may be lost.",
)

# Result.

_RESULT = CollectorRegistry()

OUTCOMES = ("success", "failed")
STATUSES = ("200", "304")

TOTALS_QUERIES = Counter(
    "voting_totals_queries", "Queries for the totals, by outcome.", ["outcome"], registry=_RESULT
)
TOTALS_SECONDS = Histogram(
    "voting_totals_query_duration_seconds",
    "Time of a query for the totals; successful queries only.",
    buckets=_QUICK,
    registry=_RESULT,
)
TOTALS_AGE = Gauge(
    "voting_totals_age_seconds",
    "Age of the totals shown; they are queried only while clients poll.",
    registry=_RESULT,
)
TOTALS_AGE.set(nan)
VOTES_COUNTED = Gauge(
    "voting_votes_counted", "Votes counted, of all options together.", registry=_RESULT
)
VOTES_COUNTED.set(nan)
PHASE = Gauge(
    "voting_poll_phase",
    "1 for the current phase of the poll: open, counting or final.",
    ["phase"],
    registry=_RESULT,
)
RESULT_RESPONSES = Counter(
    "voting_result_responses",
    "Responses to viewers, by HTTP status; 304 means unchanged.",
    ["status"],
    registry=_RESULT,
)

# Admin.

_ADMIN = CollectorRegistry()

CHANGES = ("close", "keep", "reopen", "again", "next", "reveal")

ADMIN_CHANGES = Counter(
    "voting_admin_changes",
    "Changes of the poll on the admin page, by kind, and whether they were done.",
    ["change", "outcome"],
    registry=_ADMIN,
)

# Start at 0, so that the first event is an increase.
for _counter, _words in (
    (REFUSED, REASONS),
    (TOTALS_QUERIES, OUTCOMES),
    (RESULT_RESPONSES, STATUSES),
):
    for _word in _words:
        _counter.labels(_word)
for _word in CHANGES:
    for _outcome in ("done", "refused"):
        ADMIN_CHANGES.labels(_word, _outcome)

OF_ROLE: Mapping[str, CollectorRegistry] = {
    "vote": _VOTE,
    "worker": _WORKER,
    "result": _RESULT,
    "admin": _ADMIN,
}


def exposition(role: str) -> bytes:
    """Return the role's metrics in Prometheus' text format."""
    generate = prometheus_client.generate_latest
    return generate(_EVERY) + generate(OF_ROLE[role])
