import contextlib
from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voting.poll.ballot import Choice
from voting.web.errors import NOT_A_CHOICE, NOT_A_FORM, ProblemError
from voting.web.forms import read_choice

FORM = b"application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), FORM + b"; charset=utf-8"])
def test_the_choice_is_read(content_type):
    headers = {b"content-type": content_type}
    assert read_choice(headers, b"choice=a") is Choice.A
    assert read_choice(headers, b"choice=%62&other=1") is Choice.B


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"choice",
        b"choice=",
        b"choice=c",
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
def test_a_form_without_exactly_one_valid_choice_is_refused(body):
    with pytest.raises(ProblemError) as caught:
        read_choice({b"content-type": FORM}, body)
    assert caught.value.problem is NOT_A_CHOICE


@pytest.mark.parametrize(
    "content_type", [b"", b"text/plain", b"application/json", b"multipart/form-data"]
)
def test_another_content_type_is_refused(content_type):
    with pytest.raises(ProblemError) as caught:
        read_choice({b"content-type": content_type}, b"choice=a")
    assert caught.value.problem is NOT_A_FORM


# Pieces of forms, so that some are right.
PIECES = st.sampled_from(
    [b"choice", b"=", b"&", b";", b"a", b"b", b"%61", b"%", b"+", b"\0", b"\xff", b"other", b"[]"]
)


@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=8).map(b"".join)))
@example(b"choice=a&choice=a")
@example(b"choice=%61&other=")
def test_any_body_has_exactly_one_choice_or_is_refused(body):
    with contextlib.suppress(ProblemError):
        choice = read_choice({b"content-type": FORM}, body)
        assert parse_qs(body, strict_parsing=True, keep_blank_values=True)[b"choice"] == [
            choice.encode()
        ]
