from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.poll.ballot import MIN_VERSION, Ballot, Choice, Version
from voting.queue.entry import Entry

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"

versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


def decode(*fields):
    return Entry(b"1-2", list(fields)).ballot()


@given(
    st.builds(Ballot, st.uuids(), st.sampled_from(Choice), st.none() | st.just(TRACE)),
    st.none() | st.integers(1, 999_999_999),
)
def test_ballot_decodes_to_what_was_encoded(ballot, number):
    """Without a round where an earlier version queued it."""
    voter, choice, *trace = ballot.encode()
    prefix = b"" if number is None else str(number).encode()
    fields = [b"voter", voter, b"choice", prefix + choice]
    fields += [b"trace", *trace] if trace else []
    decoded = decode(*fields)
    assert decoded == (1, 2, ballot.voter.hex, ballot.choice, ballot.trace, number)
    assert decoded.version == Version(1, 2)
    assert Entry.of(decoded) == Entry(b"1-2", fields)
    assert [each for each in (1, 2) if decoded.is_of(each)] == [
        each for each in (1, 2) if number in {None, each}
    ]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"voter", bytes(16)],
        [b"choice", b"a", b"voter", bytes(16)],
        [b"voter", bytes(16), b"choice", b"a", b"more", b""],
        [b"voter", bytes(16), b"choice", b"a", b"trace", TRACE.encode(), b"more", b""],
        [b"voter", bytes(16), b"trace", TRACE.encode()],
        *([b"voter", bytes(size), b"choice", b"a"] for size in (0, 15, 17)),
        *(
            [b"voter", bytes(16), b"choice", each]
            for each in (b"m", b"A", b"`", b"", b"ab", b"a\0", b"\xff", b"a1", b"1", b"1m", b"1 a")
        ),
        *(
            [b"voter", bytes(16), b"choice", each + b"a"]
            for each in (b"0", b"-1", b"+1", b"01", b" 1", b"1\n", b"1_0", b"x", b"\xd9\xa1")
        ),
        [b"voter", bytes(16), b"choice", b"1000000000a"],
    ],
)
def test_fields_that_are_not_a_ballot_are_refused(fields):
    with pytest.raises(ValueError, match=r".+"):
        decode(*fields)


@given(
    st.binary(max_size=80).filter(lambda trace: set(trace) - set(b"0123456789abcdef-"))
    | st.sampled_from([b"", b"a" * 65])
)
def test_invalid_trace_is_ignored(trace):
    ballot = decode(b"voter", bytes(16), b"choice", b"a", b"trace", trace)
    assert ballot == (1, 2, bytes(16).hex(), Choice.A, None, None)


def test_trace_does_not_make_ballots_differ():
    assert Ballot(UUID(int=0), Choice.A, TRACE) == Ballot(UUID(int=0), Choice.A)


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
