"""The parts of the load generator that need no server."""

import asyncio
import math
from itertools import chain, count, product, repeat
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wait import until

from voting.load.check import Expected, check, compare, wait_until_stable
from voting.load.generator import LoadGenerator, VoterPool, choose
from voting.load.latency import Latencies
from voting.load.pages import Form, PageError, Voter, offered, read_form
from voting.load.record import (
    Acknowledgement,
    Header,
    RecordError,
    RecordWriter,
    Totals,
    VoteResult,
    read_record,
)
from voting.poll.ballot import Choice, Version

A, B, C = Choice.A, Choice.B, Choice.C
FORM = Form(1, (A, B, C))
ACKNOWLEDGED, REFUSED, UNKNOWN, NO_RESPONSE = Acknowledgement


@pytest.mark.parametrize(
    ("limit", "ratio", "new"),
    [(None, 0, [True] * 6), (3, 0, [True] * 3 + [False] * 3), (None, 1, [True] + [False] * 5)],
)
def test_the_revote_ratio_decides_unless_all_voters_have_voted(limit, ratio, new):
    pool, picked = VoterPool(limit, ratio), []
    for number in range(6):
        picked.append(pool.pick() is None)
        if picked[-1]:
            pool.add(Voter(f"voter={number}", FORM))
    assert picked == new


def test_only_the_last_voters_vote_again():
    pool = VoterPool(None, 1, remembered=2)
    for number in range(50):
        pool.add(Voter(f"voter={number}", FORM))
    assert {pool.pick().id for _ in range(50)} == {"48", "49"}


@pytest.mark.parametrize(
    ("options", "last", "choices"),
    [
        (None, A, {B, C}),
        (None, None, {A, B, C}),
        ({A, C}, A, {C}),
        ({A, C}, None, {A, C}),
        ({C, Choice.L}, C, {C}),
    ],
)
def test_a_voter_that_votes_again_picks_another_option_if_it_may(options, last, choices):
    assert {choose(offered(FORM, options), last) for _ in range(100)} == choices


def test_options_that_a_question_does_not_have_are_named():
    with pytest.raises(PageError, match="round 1 has none of the options d, l"):
        offered(FORM, {Choice.L, Choice.D})


PAGE = """
<meta name="round" content="9"><form><input type="hidden" name="round" value="3" autocomplete="off">
<button id="choice-a" class="choice a" name="choice" value="a" disabled></button>
<button name="choice" value="b"></button>
"""


@pytest.mark.parametrize(
    ("page", "form"),
    [
        (PAGE, Form(3, (A, B))),
        (PAGE.replace("button", "li"), None),
        (PAGE.replace('value="a"', 'value="x"'), None),
        (PAGE.replace("input", "br"), None),
        (PAGE.replace('"3"', '"x"'), None),
        ("", None),
    ],
)
def test_the_form_of_the_vote_page_has_the_round_and_its_options(page, form):
    assert read_form(page.encode()) == form


@given(st.lists(st.floats(0, 1e5), min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_the_true_one_from_10_us_on(durations, share):
    latencies = Latencies()
    assert latencies.quantile(share) is None
    for each in durations:
        latencies.add(each)
    true = sorted(durations)[max(1, math.ceil(share * len(durations))) - 1]
    assert latencies.count == len(durations)
    assert latencies.quantile(share) == pytest.approx(max(true, 1e-5), rel=0.01 + 1e-9)


# --- the generator


class App:
    """Holds votes until `release`, in place of a server; `recorded` is what the load records."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr("voting.load.generator.vote", self.vote)
        monkeypatch.setattr("voting.load.generator.new_voter", self.new_voter)
        self.release = asyncio.Event()
        self.in_flight = self.most = 0
        self.recorded = []

    async def new_voter(self, _):
        return Voter("voter=new", FORM)

    async def vote(self, _, voter, choice):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await self.release.wait()
        self.in_flight -= 1
        return VoteResult(voter.id, choice, ACKNOWLEDGED, round=voter.form.round)

    def record(self, *vote):
        self.recorded.append(vote)

    async def load(self, in_flight, **options):
        """Start a load, and wait until so many votes are in flight."""
        voters = count()
        options = {"votes": 50, "connections": 8} | options
        options.setdefault("mint", lambda: f"voter={next(voters)}")
        generator = LoadGenerator("http://localhost", self.record, **options)
        running = asyncio.create_task(generator.run())
        await until(lambda: self.in_flight >= in_flight)
        return generator, running


@pytest.fixture
async def app(monkeypatch):
    return App(monkeypatch)


@pytest.mark.parametrize(
    ("options", "most"),
    [({"votes": 20}, 8), ({"votes": 20, "rate": 1e6}, 8), ({"votes": 30, "voters": 3}, 3)],
)
async def test_each_connection_has_one_vote_in_flight_and_voters_of_its_own(app, options, most):
    _, running = await app.load(most, **options)
    app.release.set()
    await running
    assert (len(app.recorded), app.most) == (options["votes"], most)
    assert len({result.voter for _, _, result in app.recorded}) <= options.get("voters", 20)


async def test_latency_starts_when_a_vote_is_due(app):
    loop = asyncio.get_running_loop()
    _, running = await app.load(1, votes=2, rate=1e6, connections=1)
    start = loop.time()
    await asyncio.sleep(0.05)
    held = loop.time() - start
    app.release.set()
    await running
    # The second waited for the first, though its response came at once.
    assert all(seconds > held for _, seconds, _ in app.recorded)


@pytest.mark.parametrize(("rate", "sent"), [(None, 8), (0.001, 1)])
@pytest.mark.parametrize("released", [True, False])
async def test_a_stopped_load_sends_no_more_and_waits_for_votes_in_flight(
    app, monkeypatch, rate, sent, released
):
    monkeypatch.setattr("voting.load.generator._DRAIN_TIMEOUT", 30 if released else 0)
    generator, running = await app.load(sent, rate=rate)
    generator.stop()
    if released:
        app.release.set()
    await running
    told = ACKNOWLEDGED if released else NO_RESPONSE  # it may be recorded
    assert [result.acknowledgement for _, _, result in app.recorded] == [told] * sent


async def test_a_voter_whose_page_does_not_open_has_not_voted(app, monkeypatch):
    async def fail(_):
        raise PageError

    monkeypatch.setattr("voting.load.generator.new_voter", fail)
    _, running = await app.load(0, votes=3, voters=2, mint=None)
    await running
    assert [(told, result) for told, _, result in app.recorded] == [(REFUSED, None)] * 3


async def test_an_error_of_the_record_ends_the_load(app):
    def fail(*_):
        raise OSError("the disk is full")

    app.record = fail
    _, running = await app.load(8)
    app.release.set()
    with pytest.raises(OSError, match="full"):
        await running


# --- the expected totals


def result(choice, acknowledgement, voter=1, number=1):
    return VoteResult(UUID(int=voter).hex, choice, acknowledgement, at=1.5, round=number)


def possible_votes(history):
    """Return all that may count in the end for a voter with this history, by trying it."""

    def places(index, acknowledgement):
        if acknowledgement is ACKNOWLEDGED:
            return [index]
        if acknowledgement is REFUSED:
            return [None]
        # A ballot of unknown fate is applied in its turn or never; one without a response may also
        # come after any later one.
        return [None, index] if acknowledgement is UNKNOWN else [None, *range(index, len(history))]

    for chosen in product(*(places(index, each) for index, (_, each) in enumerate(history))):
        # Of two at one place, the one that was sent first and held up comes last.
        applied = [(at, -index) for index, at in enumerate(chosen) if at is not None]
        yield history[-max(applied)[1]][0] if applied else None


VOTES = st.tuples(st.sampled_from((A, B, C)), st.sampled_from(Acknowledgement))


@given(st.lists(st.lists(VOTES, max_size=4), max_size=6))
def test_the_ranges_hold_all_that_a_correct_app_may_show_and_nothing_else(histories):
    expected = Expected(
        result(*vote, voter) for voter, history in enumerate(histories) for vote in history
    )
    possible = [set(possible_votes(history)) for history in histories]
    for choices in ({A}, {B}, {A, B}, {A, B, C}):
        least = sum(each <= choices for each in possible)
        most = sum(bool(each & choices) for each in possible)
        assert expected.count(1, *choices) == (least, most)
    assert expected.count(2, A, B, C) == (0, 0)


def totals(a, b, votes, number=1):
    return Totals(number, None if a is None else {A: a, B: b}, votes)


CERTAIN = [result(A, ACKNOWLEDGED, voter) for voter in range(1200)] + [result(B, ACKNOWLEDGED)]
UNSURE = [result(A, ACKNOWLEDGED), result(B, UNKNOWN), result(B, NO_RESPONSE, 2)]
WRONG = "differs: a 6 instead of 5, b 0, votes 6 instead of 5"
HIDDEN = "; the votes of each option are hidden"


@pytest.mark.parametrize(
    ("votes", "before", "now", "line"),
    [
        (CERTAIN, (0, 0, 0), (1199, 1, 1200), "exact: a 1,199, b 1"),
        (CERTAIN, (5, 2, 7), (1204, 3, 1207), "exact: a 1,204, b 3"),
        (
            CERTAIN,
            (0, 0, 0),
            (1198, 1, 1199),
            "differs: a 1,198 instead of 1,199, b 1, votes 1,199 instead of 1,200",
        ),
        (CERTAIN, (0, 0, 0), (1199, 2, 1200), "differs: a 1,199, b 2 instead of 1"),
        (UNSURE, (0, 0, 0), (1, 0, 1), "consistent: a 1 (0 to 1), b 0 (0 to 2)"),
        (UNSURE, (0, 0, 0), (0, 2, 2), "consistent: a 0 (0 to 1), b 2 (0 to 2)"),
        (
            UNSURE,
            (0, 0, 0),
            (1, 2, 3),
            "differs: a 1 (0 to 1), b 2 (0 to 2), votes 3 instead of 1 to 2",
        ),
        (UNSURE[:1], (None, None, 4), (None, None, 5), f"exact: votes 5{HIDDEN}"),
        (UNSURE[:1], (None, None, 4), (3, 2, 5), f"exact: votes 5{HIDDEN}"),
        (UNSURE[:1], (2, 2, 4), (None, None, 4), f"differs: votes 4 instead of 5{HIDDEN}"),
    ],
)
def test_the_verdict_compares_the_totals_with_those_expected(votes, before, now, line):
    verdict = compare(Expected(votes), totals(*before), totals(*now))
    assert verdict == (not line.startswith("differs"), line)


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ((1, 0, 0), "exact: round 1: a 4, b 0; round 2: a 1, b 0, c 0"),
        (
            (1, 1, 0),
            "differs: round 1: a 4, b 0; round 2: a 1, b 1 instead of 0, c 0, votes 2 instead of 1",
        ),
    ],
)
def test_each_round_is_compared_with_the_votes_for_it(second, line):
    votes = [result(A, ACKNOWLEDGED), result(A, ACKNOWLEDGED, number=2), result(B, REFUSED, 2)]
    then = Totals(2, dict(zip((A, B, C), second, strict=True)), sum(second))
    verdict = compare(Expected(votes), totals(3, 0, 3), totals(4, 0, 4), then)
    assert verdict == (not line.startswith("differs"), line)


# --- the check


class Clock:
    """Stands in for asyncio: sleeping takes no time."""

    now = 0.0

    def get_running_loop(self):
        return self

    def time(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def show(monkeypatch):
    """Let the result page show these votes for `a`, and the last of them forever; None: fail.

    In place of a number, the totals of another round. Of the first, `a` has five in the end.
    """

    def show(*votes):
        shown = chain(votes, repeat(votes[-1]))

        async def fetch(_, number=None):
            if number is not None:
                return totals(5, 0, 5, number)
            if (now := next(shown)) is None:
                raise PageError("no page")
            return now if isinstance(now, Totals) else totals(now, 0, now)

        monkeypatch.setattr("voting.load.check.fetch_totals", fetch)
        monkeypatch.setattr("voting.load.check.asyncio", Clock())

    return show


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        *((each, "exact: a 5, b 0") for each in ([5], [0, 1, 2, 5], [1, None, 2, 5], [9, 8, 5])),
        ([*[1] * 3, *[4] * 3, *[6] * 3, 5], "exact: a 5, b 0"),  # patience starts again
        *((each, WRONG) for each in ([6], [1, 2, 6], [5, None, 6], [*[5] * 10, 6])),
        ([5, None], "unknown: no page"),
    ],
)
async def test_totals_that_stay_are_compared(show, shown, line):
    show(*shown)
    expected = Expected(result(A, ACKNOWLEDGED, voter) for voter in range(5))
    verdict = await check(None, expected, totals(0, 0, 0), patience=1)
    assert verdict == (line.startswith("exact"), line)


SECOND = Totals(2, {A: 0, B: 0, C: 1}, 1)


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        ([3, SECOND], "exact: round 1: a 5, b 0; round 2: a 0, b 0, c 1"),
        ([5], "differs: the result is of round 1 still"),
        (
            [Totals(3, {A: 7, B: 7}, 14)],
            (
                "differs: round 1: a 5, b 0; round 2: a 5 instead of 0, b 0, votes 5 instead of 1;"
                " round 3, which is shown now, is not compared"
            ),
        ),
    ],
)
async def test_the_rounds_that_were_voted_in_are_compared(show, shown, line):
    show(*shown)
    expected = Expected(result(A, ACKNOWLEDGED, voter) for voter in range(5))
    expected.add(result(C, ACKNOWLEDGED, number=2))
    verdict = await check(None, expected, totals(0, 0, 0), patience=1)
    assert verdict == (line.startswith("exact"), line)


async def test_earlier_votes_are_counted_first(show):
    show(1, 1, 2, 2, 3, 4)
    assert await wait_until_stable(None) == totals(4, 0, 4)
    show(*range(100))
    with pytest.raises(PageError, match="others vote"):
        await wait_until_stable(None)


# --- the record

HEADER = Header("1.2", "http://v", "http://r", "2026-01-01T00:00:00+00:00", totals(3, 4, 7))
RESULTS = [
    result(A, ACKNOWLEDGED, 1)._replace(version=Version(17, 3), status=303),
    result(B, REFUSED, 2),
    result(B, UNKNOWN, 3),
    result(C, NO_RESPONSE, 3, number=2),
]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record"
    with path.open("w") as file:
        writer = RecordWriter(file, HEADER)
        for each in RESULTS:
            writer.add(each)
    return path


@pytest.mark.parametrize(("cut", "number"), [(0, 4), (1, 3), (20, 3)])
def test_a_record_is_read_as_it_was_written_without_a_last_line_that_is_cut_off(
    record, cut, number
):
    text, results = record.read_text(), []
    record.write_text(text[: len(text) - cut])
    assert read_record(record, results.append) == (HEADER, cut == 0)
    assert results == RESULTS[:number]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, "\xff"),
        (1, '{"before":{"by_option":[]}}'),
        *product([1, 3], ["", "{", "7", "[]", '{"voter":"x"}', '{"before":1}']),
    ],
)
def test_the_first_line_that_is_not_of_a_record_is_named(record, number, line):
    lines = record.read_text().splitlines()
    lines[number - 1] = line
    record.write_text("\n".join([*lines, ""]), encoding="latin-1")
    with pytest.raises(RecordError, match=rf"record: line {number} is not of a record"):
        read_record(record, [].append)
