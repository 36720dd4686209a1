"""What the result has to show: compared with all that an honest app may do."""

from itertools import product
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.load.record import (
    Expected,
    Header,
    Outcome,
    Record,
    RecordError,
    Shown,
    Told,
    Writer,
    compare,
)
from voting.poll.ballot import Choice

A, B = Choice.A, Choice.B
YES = (Told.YES, True)
NO = (Told.NO, True)
UNKNOWN = (Told.UNKNOWN, True)
SILENCE = (Told.UNKNOWN, False)
NOTHING = Shown(0, 0, 0)
HEADER = Header("1.2", "http://v", "http://r", "2026-01-01T00:00:00+00:00", Shown(3, 4, 7))


def outcome(choice, told, voter=1):
    return Outcome(UUID(int=voter).hex, choice, *told, ballot=None, at=1.5)


def expected(*outcomes):
    found = Expected()
    for each in outcomes:
        found.add(each)
    return found


def fates(history):
    """All that may count in the end for a voter who was told this, by trying it."""

    def places(index, told):
        if told == YES:
            return [index]
        if told == NO:
            return [None]
        # A ballot of unknown fate is applied in its turn or never; one that nobody answered for
        # may also come after any later one.
        return [None, index] if told == UNKNOWN else [None, *range(index, len(history))]

    for chosen in product(*(places(index, told) for index, (_, told) in enumerate(history))):
        # Of two at one place, the one that was sent first and held up comes last.
        applied = [(at, -index) for index, at in enumerate(chosen) if at is not None]
        yield history[-max(applied)[1]][0] if applied else None


HISTORIES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(list(Choice)), st.sampled_from([YES, NO, UNKNOWN, SILENCE])),
        max_size=4,
    ),
    max_size=6,
)


@given(HISTORIES)
def test_the_ranges_are_what_an_honest_app_may_show_and_nothing_else(histories):
    told = expected(
        *(
            outcome(choice, told, voter)
            for voter, history in enumerate(histories)
            for choice, told in history
        )
    )
    possible = [set(fates(history)) for history in histories]
    for choices in ({A}, {B}, {A, B}):
        least = sum(fate <= choices for fate in possible)
        most = sum(bool(fate & choices) for fate in possible)
        assert told.of(*choices) == (least, most)


CERTAIN = st.lists(
    st.tuples(st.sampled_from(list(Choice)), st.sampled_from([YES, NO]), st.integers(0, 5))
)


@given(CERTAIN, st.integers(0, 9), st.integers(-2, 2), st.integers(-2, 2))
def test_where_all_is_known_one_result_is_right_and_every_other_is_wrong(votes, before, more, less):
    newest = {voter: choice for choice, told, voter in votes if told == YES}
    a, b = (list(newest.values()).count(choice) + before for choice in (A, B))
    told = expected(*(outcome(*vote) for vote in votes))
    shown = Shown(a + more, b + less, a + b + more + less)
    verdict = compare(told, Shown(before, before, 2 * before), shown)
    assert verdict.agrees is (more == less == 0)
    assert verdict.line.startswith("exact: " if verdict.agrees else "differs: ")


def test_the_line_says_what_is_there():
    told = expected(*(outcome(A, YES, voter) for voter in range(1200)), outcome(B, YES, 9999))
    assert compare(told, NOTHING, Shown(1200, 1, 1201)).line == "exact: a 1,200, b 1"


def test_the_line_says_what_differs_and_what_was_expected():
    told = expected(outcome(A, YES, 1), outcome(B, YES, 2))
    verdict = compare(told, Shown(5, 5, 10), Shown(5, 6, 11))
    assert verdict.line == "differs: a 5 instead of 6, b 6, votes 11 instead of 12"


def test_unknown_fates_give_a_range_and_the_line_says_so():
    told = expected(outcome(A, YES, 1), outcome(B, UNKNOWN, 1), outcome(B, SILENCE, 2))
    for shown in (Shown(1, 0, 1), Shown(0, 1, 1), Shown(1, 1, 2), Shown(0, 2, 2)):
        verdict = compare(told, NOTHING, shown)
        assert verdict.agrees
        assert verdict.line.startswith("as far as voters know: a ")
        assert "(0 to 1)" in verdict.line
    assert not compare(told, NOTHING, Shown(1, 2, 3)).agrees
    assert not compare(told, NOTHING, Shown(0, 0, 0)).agrees


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Shown(None, None, 4), Shown(None, None, 5)),
        (Shown(None, None, 4), Shown(3, 2, 5)),
        (Shown(2, 2, 4), Shown(None, None, 5)),
    ],
)
def test_hidden_votes_are_compared_by_turnout_alone(before, now):
    told = expected(outcome(A, YES))
    right = compare(told, before, now)
    assert (right.agrees, right.line) == (True, "exact: votes 5; what each option has is hidden")
    assert not compare(expected(), before, now).agrees


def write(path: Path, *outcomes: Outcome) -> Path:
    with path.open("w") as file:
        writer = Writer(file, HEADER)
        for each in outcomes:
            writer.add(each)
    return path


OUTCOMES = (outcome(A, YES, 1), outcome(B, NO, 2), outcome(B, UNKNOWN, 3), outcome(A, SILENCE, 3))


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record.read(write(tmp_path / "record", *OUTCOMES))
    assert (record.header, record.whole) == (HEADER, True)
    assert record.expected._fates == expected(*OUTCOMES)._fates


@pytest.mark.parametrize("cut", [1, 20])
def test_a_record_whose_last_line_is_cut_off_is_read_without_it(tmp_path, cut):
    path = write(tmp_path / "record", *OUTCOMES)
    path.write_text(path.read_text()[:-cut])
    record = Record.read(path)
    assert not record.whole
    assert record.expected._fates == expected(*OUTCOMES[:-1])._fates


@pytest.mark.parametrize("line", ["{", "7", '{"voter":"x"}', '{"choice":"c","told":"yes"}', ""])
def test_a_line_that_is_none_of_a_record_is_named(tmp_path, line):
    path = write(tmp_path / "record", *OUTCOMES)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(RecordError, match=r"record: line 3 is not of a record"):
        Record.read(path)


@pytest.mark.parametrize("text", ["", "{}", "[]\n", '{"before": 1}\n', "\xff"])
def test_what_does_not_begin_like_a_record_is_none(tmp_path, text):
    path = tmp_path / "record"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match="line 1 "):
        Record.read(path)
