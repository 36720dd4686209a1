"""Series of twenty minutes, and the alerts that must fire at their end.

In promtool's notation `0+10x80` is 0, 10, 20 and so on, eighty times, 15 seconds apart.
"""

NAMESPACE = 'namespace="voting"'


def pod(name: str, role: str, labels: str = "") -> str:
    more = f",{labels}" if labels else ""
    return f'{name}{{{NAMESPACE},job="voting",component="{role}",pod="{role}-1"{more}}}'


def ballots_refused(reason: str) -> str:
    return pod("voting_ballots_refused_total", "vote", f'reason="{reason}"')


UP = {role: pod("up", role) for role in ("vote", "result", "worker", "admin")}
READY = {role: pod("voting_ready", role, f'role="{role}"') for role in UP}
ACCEPTED = pod("voting_ballots_accepted_total", "vote")
FSYNC_ALWAYS = pod("voting_redis_fsync_always", "worker")
REPLICAS = pod("voting_queue_replicas", "worker")
REQUIRED = pod("voting_queue_replicas_required", "worker")
PROBLEMS = pod("voting_integrity_problems", "worker")
BACKLOG = pod("voting_backlog_ballots", "worker")
AGE = pod("voting_backlog_age_seconds", "worker")
DEAD = pod("voting_dead_letter_entries", "worker")
MEMORY = pod("voting_redis_memory_used_ratio", "worker")
TOTALS_AGE = pod("voting_totals_age_seconds", "result")
COUNTING = pod("voting_poll_phase", "result", 'phase="counting"')
VOLUME_FREE = f'kubelet_volume_stats_available_bytes{{{NAMESPACE},persistentvolumeclaim="redis"}}'
# Of a pod's own claim.
REPLICA_FREE = VOLUME_FREE.replace('"redis"', '"data-redis-1"')
REPLICA_CAPACITY = REPLICA_FREE.replace("available", "capacity")
OTHER_VOLUME = 'kubelet_volume_stats_{}_bytes{{namespace="other",persistentvolumeclaim="redis"}}'

UNKNOWN = "NaN " * 81

NORMAL = {
    **dict.fromkeys((*UP.values(), *READY.values()), "1x80"),
    pod("voting_build_info", "vote", 'version="1"'): "1x80",
    ACCEPTED: "0+1000x80",
    ballots_refused("unavailable"): "0x80",
    # The app works.
    ballots_refused("closed"): "0+1000x80",
    ballots_refused("round_over"): "0+1000x80",
    ballots_refused("unknown"): "0+1x80",  # one in a thousand
    FSYNC_ALWAYS: "1x80",
    REPLICAS: "2x43 1x36",  # one has been away for nine minutes
    REQUIRED: "1x80",
    PROBLEMS: "0x80",
    BACKLOG: "20000x80",  # many, but not growing
    AGE: "5x80",
    DEAD: "3x80",  # old ones
    MEMORY: "0.5x80",
    TOTALS_AGE: "0.4x80",
    COUNTING: "0x76 1x4",  # for a minute
    VOLUME_FREE: "50x80",
    VOLUME_FREE.replace("available", "capacity"): "100x80",
    OTHER_VOLUME.format("available"): "1x80",  # another namespace
    OTHER_VOLUME.format("capacity"): "100x80",
}

ALERT_CASES = [
    (("VotingNoVote",), {UP["vote"]: "0x80"}),
    (("VotingNoVote",), {UP["vote"]: ""}),
    (("VotingNoResult",), {UP["result"]: "0x80"}),
    (("VotingNoWorker",), {UP["worker"]: "0x80"}),
    (("VotingNotReady",), {READY["result"]: "0x80"}),
    (("VotingNotReady",), {READY["admin"]: "0x80"}),
    (("VotingBallotsRefused",), {ballots_refused("unavailable"): "0+20x80"}),
    (("VotingBallotsRefused",), {ballots_refused("unknown"): "0+20x80"}),
    (("VotingNotDurable",), {FSYNC_ALWAYS: "0x80"}),
    (("VotingNotReplicated",), {REPLICAS: "2x72 0x8"}),
    (("VotingNotReplicated", "VotingReplicaMissing"), {REPLICAS: "0x80"}),
    (("VotingReplicaMissing",), {REPLICAS: "1x80"}),
    ((), {REPLICAS: "0x80", REQUIRED: "0x80"}),
    ((), {REPLICAS: UNKNOWN}),
    (("VotingNotFinal",), {COUNTING: "0x60 1x20"}),
    (("VotingIntegrity",), {PROBLEMS: "0x70 1x10"}),
    # A second worker could not read the setting.
    (
        ("VotingNotDurable",),
        {FSYNC_ALWAYS: "0x80", FSYNC_ALWAYS.replace("worker-1", "worker-2"): UNKNOWN},
    ),
    ((), {FSYNC_ALWAYS: UNKNOWN, BACKLOG: UNKNOWN, AGE: UNKNOWN, MEMORY: UNKNOWN}),
    (("VotingBacklogOld",), {AGE: "50+1x80"}),
    (("VotingBacklogGrowing",), {BACKLOG: "20000+100x80"}),
    ((), {BACKLOG: "0+100x80"}),
    (("VotingDeadLetters",), {DEAD: "3x70 4x10"}),
    (("VotingTotalsStale",), {TOTALS_AGE: "0+15x80"}),
    (("VotingRedisMemory",), {MEMORY: "0.8x80"}),
    (("VotingVolumeFilling",), {VOLUME_FREE: "10x80"}),
    (("VotingVolumeFilling",), {REPLICA_FREE: "10x80", REPLICA_CAPACITY: "100x80"}),
]
