import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"

ballots = st.builds(Ballot, st.uuids(), st.sampled_from(Choice))
versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(ballots)
def test_a_ballot_survives_its_encoding(ballot):
    voter, choice = ballot.encode()
    assert Ballot.decode({b"voter": voter, b"choice": choice}) == ballot


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"voter": bytes(16)},
        {b"voter": bytes(16), b"choice": b"a", b"more": b""},
        {b"voter": bytes(16), b"choice": b"a", b"trace": TRACE.encode(), b"more": b""},
        {b"voter": bytes(16), b"trace": TRACE.encode()},
        {b"voter": bytes(15), b"choice": b"a"},
        {b"voter": bytes(17), b"choice": b"a"},
        {b"voter": bytes(16), b"choice": b"c"},
        {b"voter": bytes(16), b"choice": b"A"},
        {b"voter": bytes(16), b"choice": b""},
        {b"voter": bytes(16), b"choice": b"a\0"},
        {b"voter": bytes(16), b"choice": b"\xff"},
    ],
)
def test_what_is_no_ballot_is_refused(fields):
    with pytest.raises(ValueError, match=r".+"):
        Ballot.decode(fields)


@given(st.dictionaries(st.sampled_from([b"voter", b"choice", b"x"]), st.binary(max_size=20)))
def test_decoding_gives_a_ballot_or_a_value_error_and_nothing_else(fields):
    try:
        ballot = Ballot.decode(fields)
    except ValueError:
        return
    assert dict(zip((b"voter", b"choice"), ballot.encode(), strict=True)) == fields


@given(ballots)
def test_a_trace_survives_beside_a_ballot_and_is_no_part_of_it(ballot):
    traced = Ballot(ballot.voter, ballot.choice, TRACE)
    fields = dict(zip((b"voter", b"choice", b"trace"), traced.encode(), strict=True))
    decoded = Ballot.decode(fields)
    assert decoded.trace == TRACE
    assert decoded == ballot


@given(st.binary(max_size=80).filter(lambda trace: not re.fullmatch(rb"[0-9a-f-]{1,64}", trace)))
def test_a_trace_that_makes_no_sense_is_ignored(trace):
    ballot = Ballot.decode({b"voter": bytes(16), b"choice": b"a", b"trace": trace})
    assert ballot == Ballot(UUID(int=0), Choice.A)
    assert ballot.trace is None


@given(versions)
def test_a_version_survives_its_text(version):
    assert Version.parse(str(version)) == Version.parse(str(version).encode()) == version


@pytest.mark.parametrize(
    "text",
    ["", "1", "-", "1-", "-1", "1-2-3", "a-b", "1 -2", "+1-2", "\u0661-\u0662", "1" * 21 + "-0"],
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(ValueError, match="not a stream id"):
        Version.parse(text)


def test_a_version_that_is_not_text_is_refused():
    with pytest.raises(ValueError, match="not a stream id"):
        Version.parse(b"\xff-1")


@given(versions, versions)
def test_versions_are_ordered_by_time_then_by_number(one, other):
    assert (one < other) == ((one.ms, one.seq) < (other.ms, other.seq))
    assert one >= MIN_VERSION


def test_a_voter_is_sixteen_bytes_in_the_stream():
    voter = uuid4()
    assert Ballot(voter, Choice.B).encode() == (voter.bytes, b"b")
    assert UUID(bytes=voter.bytes) == voter
