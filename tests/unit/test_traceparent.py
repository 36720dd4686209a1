import pytest

from voting.telemetry import traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_traceparent_is_read_as_it_is():
    assert traceparent.parse(VALID) == VALID
    assert traceparent.trace_id(VALID) == TRACE


@pytest.mark.parametrize("text", [f"01-{VALID[3:]}", f"cc-{VALID[3:]}-what-comes-later"])
def test_one_of_a_later_version_is_read_as_far_as_it_is_known(text):
    assert traceparent.parse(text) == VALID


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        VALID[:-1],
        f"{VALID}-more",
        f"{VALID}0",
        f" {VALID}",
        f"{VALID}\n",
        VALID.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00-{TRACE[:-1]}\u0664-{PARENT}-01",
        f"cc-{VALID[3:]}what-comes-later",
    ],
)
def test_what_is_no_traceparent_is_none(text):
    assert traceparent.parse(text) is None


def test_one_that_is_made_is_new_valid_and_not_recorded():
    one, other = traceparent.make(), traceparent.make()
    assert traceparent.parse(one) == one
    assert traceparent.trace_id(one) != traceparent.trace_id(other)
    assert one.endswith("-00")
