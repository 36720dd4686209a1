from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"

ballots = st.builds(Ballot, st.uuids(), st.sampled_from(Choice))
versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(ballots)
def test_ballot_decodes_to_what_was_encoded(ballot):
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
def test_fields_that_are_not_a_ballot_are_refused(fields):
    with pytest.raises(ValueError, match=r".+"):
        Ballot.decode(fields)


@given(st.dictionaries(st.sampled_from([b"voter", b"choice", b"x"]), st.binary(max_size=20)))
def test_decoding_returns_a_ballot_or_raises_value_error(fields):
    try:
        ballot = Ballot.decode(fields)
    except ValueError:
        return
    assert dict(zip((b"voter", b"choice"), ballot.encode(), strict=True)) == fields


@given(ballots)
def test_trace_is_decoded_and_does_not_make_ballots_differ(ballot):
    traced = Ballot(ballot.voter, ballot.choice, TRACE)
    fields = dict(zip((b"voter", b"choice", b"trace"), traced.encode(), strict=True))
    decoded = Ballot.decode(fields)
    assert decoded.trace == TRACE
    assert decoded == ballot


@given(
    st.binary(max_size=80).filter(lambda trace: set(trace) - set(b"0123456789abcdef-"))
    | st.sampled_from([b"", b"a" * 65])
)
def test_invalid_trace_is_ignored(trace):
    ballot = Ballot.decode({b"voter": bytes(16), b"choice": b"a", b"trace": trace})
    assert ballot == Ballot(UUID(int=0), Choice.A)
    assert ballot.trace is None


@given(versions)
def test_version_parses_from_its_text(version):
    assert Version.parse(str(version)) == Version.parse(str(version).encode()) == version


@pytest.mark.parametrize(
    "text",
    ["", "1", "-", "1-", "-1", "1-2-3", "a-b", "1 -2", "+1-2", "\u0661-\u0662", "1" * 21 + "-0"],
)
def test_text_that_is_not_a_version_is_refused(text):
    with pytest.raises(ValueError, match="not a stream id"):
        Version.parse(text)


def test_bytes_that_are_not_ascii_are_not_a_version():
    with pytest.raises(ValueError, match="not a stream id"):
        Version.parse(b"\xff-1")


@given(versions, versions)
def test_versions_are_ordered_by_time_then_by_sequence(one, other):
    assert (one < other) == ((one.ms, one.seq) < (other.ms, other.seq))
    assert one >= MIN_VERSION


def test_voter_is_encoded_in_sixteen_bytes():
    voter = uuid4()
    assert Ballot(voter, Choice.B).encode() == (voter.bytes, b"b")
    assert UUID(bytes=voter.bytes) == voter
