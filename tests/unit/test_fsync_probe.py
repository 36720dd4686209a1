import pytest

from voting.queue.client import Queue, connect
from voting.queue.fsync_probe import CHECKS, FsyncProbe


@pytest.fixture
def probe():
    return FsyncProbe(Queue(connect("redis://unused")))


@pytest.mark.parametrize("fsynced", [True, False])
def test_one_failed_check_outweighs_checks_that_only_seem_to_succeed(fsynced, probe):
    assert probe.observe(fsynced=True)
    assert probe.observe(fsynced=fsynced) is fsynced
    later = [probe.observe(fsynced=True) for _ in range(CHECKS)]
    assert later == [fsynced] * (CHECKS - 1) + [True]


def test_an_inconclusive_check_returns_none_and_discards_no_earlier_one(probe, caplog):
    assert probe.observe(fsynced=None) is None
    assert probe.observe(fsynced=False) is False
    assert probe.observe(fsynced=None) is None
    assert probe.observe(fsynced=True) is False
    assert len(caplog.records) == 1
