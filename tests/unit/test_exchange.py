import pytest

from voting.web.exchange import Answer, Asked, BrokenOff, TooLarge


def asked(*headers, messages=()):
    coming = iter(messages)

    async def receive():
        return next(coming)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Asked({"type": "http", "method": "POST", "headers": raw}, receive)


def part(body, *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def sent(answer):
    messages = []

    async def send(message):
        messages.append(message)

    await answer({}, None, send)
    start, body = messages
    return start["status"], start["headers"], body["body"]


def test_headers_are_found_by_their_names():
    request = asked(("host", "me"), ("user-agent", "\xe9"))
    assert request.headers == {"host": "me", "user-agent": "\xe9"}
    assert request.method == "POST"


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], None),
        ([("cookie", "")], None),
        ([("cookie", "other=1")], None),
        ([("cookie", "wanted=1")], "1"),
        ([("cookie", "wanted=")], ""),
        ([("cookie", "a=b; wanted = 1=2 ;c")], "1=2"),
        ([("cookie", "unwanted=0; wanted=1; wanted=2")], "2"),
        # HTTP/2 may split them, and a proxy hand them on like that.
        ([("cookie", "wanted=1"), ("cookie", "a=b")], "1"),
        ([("cookie", "a=b"), ("accept", "c"), ("cookie", "wanted=1")], "1"),
        # Nothing but the cookies counts as one.
        ([("accept", "wanted=1"), ("accept", "wanted=2")], None),
    ],
)
def test_a_cookie_is_found_wherever_it_stands(headers, value):
    assert asked(*headers).cookie("wanted") == value


@pytest.mark.parametrize("parts", [[b"12345"], [b"12", b"345"], [b"", b"1", b"2345", b""]])
async def test_a_body_is_read_to_its_end_in_whatever_parts_it_comes(parts):
    messages = [part(each, more=True) for each in parts[:-1]] + [part(parts[-1])]
    assert await asked(messages=messages).body(5) == b"12345"


async def test_a_body_that_is_too_large_is_not_read_to_its_end():
    with pytest.raises(TooLarge):
        await asked(messages=[part(b"123", more=True), part(b"456", more=True)]).body(5)


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all():
    with pytest.raises(TooLarge):
        await asked(("content-length", "6")).body(5)
    assert await asked(("content-length", "5"), messages=[part(b"12345")]).body(5) == b"12345"


async def test_a_client_that_leaves_in_the_middle_has_no_body():
    with pytest.raises(BrokenOff):
        await asked(messages=[part(b"1", more=True), {"type": "http.disconnect"}]).body(5)


async def test_an_answer_has_its_headers_its_cookies_and_its_length():
    answer = Answer("\u00e9", status=404, headers={"ETag": '"1"'}, cookies=["a=1; Path=/", "b=2"])
    assert await sent(answer) == (
        404,
        [
            (b"etag", b'"1"'),
            (b"set-cookie", b"a=1; Path=/"),
            (b"set-cookie", b"b=2"),
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", b"2"),
        ],
        b"\xc3\xa9",
    )


async def test_an_answer_without_a_body_says_so():
    assert await sent(Answer(status=303, headers={})) == (303, [(b"content-length", b"0")], b"")


async def test_what_is_unchanged_has_no_length():
    """It would be that of the body which is not there.

    Source: RFC 9110, section 8.6.
    """
    assert await sent(Answer(status=304, headers={})) == (304, [], b"")
