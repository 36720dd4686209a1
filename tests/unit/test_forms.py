import contextlib
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.ballots import Choice
from voting.forms import FormError, read_choice

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), f"{FORM}; charset=utf-8"])
def test_the_choice_is_read(content_type):
    assert read_choice(content_type, b"choice=a") is Choice.A
    assert read_choice(content_type, b"choice=%62&other=1") is Choice.B


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
def test_a_form_with_another_choice_or_none_or_several_is_refused(body):
    with pytest.raises(FormError) as caught:
        read_choice(FORM, body)
    assert caught.value.status is HTTPStatus.UNPROCESSABLE_ENTITY


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json", "multipart/form-data"]
)
def test_another_content_type_is_refused(content_type):
    with pytest.raises(FormError) as caught:
        read_choice(content_type, b"choice=a")
    assert caught.value.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE


@given(st.binary(max_size=60))
def test_any_body_is_a_choice_or_refused(body):
    with contextlib.suppress(FormError):
        assert read_choice(FORM, body) in Choice
