import contextlib
from urllib.parse import parse_qs, quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voting.poll.ballot import Choice
from voting.web.errors import NOT_A_CHOICE, NOT_A_FORM, ProblemError
from voting.web.forms import VoteForm, read_form

FORM = b"application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), FORM + b"; charset=utf-8"])
def test_the_round_and_the_choice_are_read_in_either_order(content_type):
    headers = {b"content-type": content_type}
    assert read_form(headers, b"round=1&choice=a") == VoteForm(1, Choice.A)
    assert read_form(headers, b"choice=%6c&other=1&round=%32147483647") == VoteForm(
        2**31 - 1, Choice.L
    )


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"choice",
        b"choice=",
        b"choice=m",
        b"choice=A",
        b"other=a",
        b"choice=a&choice=a",
        b"choice=a&choice=b",
        b"choice=a%00",
        b"choice=\x00a",
        b"choice=%ff",
        b"choice=%",
        "choice=ä".encode(),
        b"\xff\xfe",
        b"choice=a&" + b"x=1&" * 20,
        b'{"choice": "a"}',
    ],
)
def test_a_form_without_exactly_one_valid_choice_is_refused(fields):
    with pytest.raises(ProblemError) as caught:
        read_form({b"content-type": FORM}, b"round=1&" + fields)
    assert caught.value.problem is NOT_A_CHOICE


NOT_ROUNDS = [
    "",
    "0",
    "01",
    "-1",
    "+1",
    " 1",
    "1.0",
    "1e3",
    "0x1",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "x",
    "2147483648",
    "9" * 99,
]


@pytest.mark.parametrize(
    "fields",
    ["choice=a", "choice=a&round", "choice=a&round=1&round=1"]
    + [f"choice=a&round={quote(value)}" for value in NOT_ROUNDS],
)
def test_a_form_without_exactly_one_valid_round_is_refused(fields):
    with pytest.raises(ProblemError) as caught:
        read_form({b"content-type": FORM}, fields.encode())
    assert caught.value.problem is NOT_A_CHOICE


@pytest.mark.parametrize(
    "content_type", [b"", b"text/plain", b"application/json", b"multipart/form-data"]
)
def test_another_content_type_is_refused(content_type):
    with pytest.raises(ProblemError) as caught:
        read_form({b"content-type": content_type}, b"round=1&choice=a")
    assert caught.value.problem is NOT_A_FORM


# Pieces of forms, so that some are right.
PIECES = st.sampled_from(
    [
        *(b"choice=", b"round=", b"choice", b"=", b"&", b"&", b";", b"a", b"b", b"%61"),
        *(b"1", b"%31", b"0", b"%", b"+", b"\0", b"\xff", b"other", b"[]"),
    ]
)


@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=8).map(b"".join)))
@example(b"round=1&choice=a&choice=a")
@example(b"choice=%61&other=&round=%31")
def test_any_body_has_exactly_one_round_and_choice_or_is_refused(body):
    with contextlib.suppress(ProblemError):
        form = read_form({b"content-type": FORM}, body)
        fields = parse_qs(body, strict_parsing=True, keep_blank_values=True)
        assert fields[b"round"] == [b"%d" % form.round]
        assert fields[b"choice"] == [form.choice.encode()]
