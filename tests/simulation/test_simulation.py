"""The app's queue and worker code runs against models of its servers, under thousands of faults.

`--seeds N` runs the first N seeds; `--seed N` runs that seed and prints its trace if it fails.
"""

import re

import pytest
from simulation import world
from simulation.controls import CONTROLS, REPLICATED
from simulation.network import POSTGRES_FAULTS, REDIS_FAULTS, WEIGHTS
from simulation.parallel import run_seeds, start_processes
from simulation.replication import FAILURES

from voting.load.record import Acknowledgement

LAST_STEPS = 150

# 2,000 seeds must contain each fault in each of these steps. The other steps change no data.
REDIS_STEPS = {
    *("cast", "time", "sync_poll", "xreadgroup", "xautoclaim", "xack"),
    *("dead_letter", "delete_idle_consumers"),
}
POSTGRES_STEPS = {
    *("count", "lock", "poll", "version floor", "commit", "confirm close"),
    "finalize",
}
EVENTS = {each.__name__ for each in world.EVENTS} | {
    *("another round", "another question", "final undone", "counting undone"),
    *("RoundOver", "PollClosed"),
}
FAILURES = {each.__name__ for each in FAILURES}
HARMLESS = {"lose_a_replica", "cut_off_a_replica", "restart_the_primary"}


def explain(seed, wrong, steps=LAST_STEPS):
    """Describe the violations, the steps before them, and how to replay them."""
    run = world.run(seed)
    steps = run.lines(steps) if run.wrong else ["the seed passed when it was run again"]
    replay = f"pytest tests/simulation --seed {seed}"
    return "\n".join(["", *steps, "", *wrong, "", f"Replay: {replay}"])


@pytest.fixture(scope="module")
def processes():
    with start_processes() as processes:
        yield processes


@pytest.fixture
def seeds(request):
    return request.config.getoption("--seeds")


def test_one_seed(request):
    seed = request.config.getoption("--seed")
    run = world.run(seed)
    if run.wrong:
        pytest.fail(explain(seed, run.wrong, steps=None), pytrace=False)


@pytest.mark.timeout(900)
def test_each_vote_counts_once_under_faults(processes, seeds, record_property):
    summary = run_seeds(processes, range(seeds))
    for seed, wrong in sorted(summary.failed.items())[:1]:
        pytest.fail(explain(seed, wrong), pytrace=False)
    assert len(summary.digests) == seeds
    record_property("steps", summary.steps)
    record_property("faults", summary.seen.total())
    record_property("failovers", sum(summary.seen["failover", each] for each in FAILURES))
    if seeds >= 2000:  # A run without faults proves nothing.
        expected = {(fault, step) for fault in REDIS_FAULTS for step in REDIS_STEPS}
        expected |= {(fault, step) for fault in POSTGRES_FAULTS for step in POSTGRES_STEPS}
        expected |= {("twice", "cast"), ("break before", "connect"), ("silence before", "connect")}
        expected |= {("world", event) for event in EVENTS | FAILURES}
        meanwhile = ("close", "another round")
        expected |= {(change, failure) for change in meanwhile for failure in FAILURES}
        expected |= {("failover", failure) for failure in FAILURES - HARMLESS}
        expected |= {(fault, "ask a Sentinel") for fault in ("silence before", "late reply")}
        assert WEIGHTS.keys() <= REDIS_STEPS | POSTGRES_STEPS | {"start round"}
        missed = expected - {each for each, times in summary.seen.items() if times}
        assert not missed
        assert set(summary.acknowledgements) == {each.name for each in Acknowledgement}


@pytest.mark.parametrize("control", CONTROLS)
def test_the_simulation_finds_each_mistake(processes, control):
    says = REPLICATED.get(CONTROLS[control])
    seeds = range(1000) if says is None else filter(world.is_replicated, range(2000))
    summary = run_seeds(processes, seeds, control)
    assert summary.failed, "no seed found the mistake"
    [wrong] = summary.failed.values()
    assert says is None or any(re.search(says, each) for each in wrong), wrong


def test_a_seed_repeats_its_trace():
    # In separate processes, since each has its own hash seed.
    with start_processes(1) as first, start_processes(2) as second:
        one, two = (run_seeds(each, range(30)) for each in (first, second))
    assert one.digests == two.digests
    assert len(set(one.digests.values())) == 30
