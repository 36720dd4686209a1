"""The app's own stream and workers against models of its servers, under thousands of faults.

`--seeds N` runs the first N seeds; `--seed N` runs that one and shows its story if it fails.
"""

import pytest
from simulation import world
from simulation.controls import CONTROLS
from simulation.many import run_seeds
from simulation.network import POSTGRES_FAULTS, REDIS_FAULTS

from voting.load.record import Acknowledgement

LAST_STEPS = 150

# Each fault of each of these has to be seen. Of what `prepare` asks before, some: it is harmless.
REDIS_STEPS = {
    "cast",
    "time",
    "sync_poll",
    "xreadgroup",
    "xautoclaim",
    "xack",
    "dead_letter",
    "delete_idle_consumers",
}
POSTGRES_STEPS = {
    "count",
    "lock",
    "poll",
    "version floor",
    "commit",
    "confirm close",
    "finalize",
}
HAPPENINGS = {
    "_kill_one",
    "_stop_a_worker",
    "_suspend_one",
    "_redis_restarts",
    "_group_destroyed",
    "_poison_comes",
    "_memory_full",
    "_volume_lost",
    "_clock_steps_forward",
    "_postgres_away",
    "_poll_changes",
    "another round",
    "final undone",
    "counting undone",
}


def explain(seed, wrong, steps=LAST_STEPS):
    """Say what is wrong, after what, and how to see it again."""
    run = world.run(seed)
    steps = run.story(steps) if run.wrong else ["it did not fail when it was run again"]
    replay = f"pytest tests/simulation --seed {seed}"
    return "\n".join(["", *steps, "", *wrong, "", f"Replay it with: {replay}"])


@pytest.fixture
def seeds(request):
    return request.config.getoption("--seeds")


def test_one_seed_keeps_the_promise(request):
    seed = request.config.getoption("--seed")
    run = world.run(seed)
    if run.wrong:
        pytest.fail(explain(seed, run.wrong, steps=None), pytrace=False)


@pytest.mark.timeout(900)
def test_whatever_fails_each_vote_counts_once(seeds, record_property):
    summary = run_seeds(seeds)
    for seed, wrong in sorted(summary.failed.items())[:1]:
        pytest.fail(explain(seed, wrong), pytrace=False)
    assert len(summary.digests) == seeds
    record_property("steps", summary.steps)
    record_property("faults", summary.seen.total())
    if seeds >= 2000:  # a proof that nothing ever went wrong in would prove nothing
        expected = {(fault, step) for fault in REDIS_FAULTS for step in REDIS_STEPS}
        expected |= {(fault, step) for fault in POSTGRES_FAULTS for step in POSTGRES_STEPS}
        expected |= {("twice", "cast"), ("break before", "connect"), ("silence before", "connect")}
        expected |= {("world", happening) for happening in HAPPENINGS}
        missed = expected - summary.seen.keys()
        assert not missed
        assert set(summary.told) == {each.name for each in Acknowledgement}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_mistake_in_the_code_is_found(control):
    summary = run_seeds(1000, control)
    assert summary.failed, "a simulation that can't fail proves nothing"


def test_a_seed_is_the_same_story_every_time():
    # Other processes, in which other strings have the same hash.
    one, two = run_seeds(30, processes=1), run_seeds(30, processes=2)
    assert one.digests == two.digests
    assert len(set(one.digests.values())) == 30
