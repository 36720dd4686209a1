import pytest

from voting.queue.fsync_probe import LOOKS, Durability


@pytest.mark.parametrize("found", [True, False])
def test_one_no_outweighs_what_only_seems_to_be_durable(found):
    durability = Durability()
    assert durability.judge(found=True)
    assert durability.judge(found=found) is found
    later = [durability.judge(found=True) for _ in range(LOOKS)]
    assert later == [found] * (LOOKS - 1) + [True]


def test_what_can_not_be_told_is_neither_and_forgets_nothing(caplog):
    durability = Durability()
    assert durability.judge(found=None) is None
    assert durability.judge(found=False) is False
    assert durability.judge(found=None) is None
    assert durability.judge(found=True) is False
    assert len(caplog.records) == 1


def test_a_server_that_is_durable_needs_no_line(caplog):
    durability = Durability()
    assert all(durability.judge(found=True) for _ in range(LOOKS * 2))
    assert not caplog.records
