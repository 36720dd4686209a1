import pytest

from voting.web.errors import TOO_LARGE, ProblemError
from voting.web.forms import MAX_BODY, read_body


def part(body, *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def read(*messages, length=None):
    remaining = iter(messages)

    async def receive():
        return next(remaining)

    headers = {} if length is None else {b"content-length": b"%d" % length}
    return await read_body(headers, receive)


@pytest.mark.parametrize("parts", [[b"12345"], [b"12", b"345"], [b"", b"1", b"2345", b""]])
async def test_a_body_is_read_to_its_end_in_any_number_of_parts(parts):
    messages = [part(each, more=True) for each in parts[:-1]] + [part(parts[-1])]
    assert await read(*messages) == b"12345"


async def test_a_body_of_the_limit_is_read():
    body = b"a" * MAX_BODY
    assert await read(part(body)) == await read(part(body), length=MAX_BODY) == body


async def test_a_body_that_is_too_large_is_not_read_to_its_end():
    with pytest.raises(ProblemError) as caught:
        await read(part(b"a" * MAX_BODY, more=True), part(b"a", more=True))
    assert caught.value.problem is TOO_LARGE


async def test_a_body_whose_declared_length_is_too_large_is_not_read():
    with pytest.raises(ProblemError) as caught:
        await read(length=MAX_BODY + 1)
    assert caught.value.problem is TOO_LARGE
