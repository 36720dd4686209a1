from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voting.web.cookies import VoterCookies, cookie_name, read_cookies
from voting.web.headers import request_headers

OLD, NEW = "o" * 32, "n" * 32
POLL = "cf6cbd6b-0d3d-4a8e-a4a9-6b1a4b8b5f55"


def test_each_of_the_128_bits_of_a_voter_id_is_random():
    cookies = VoterCookies([NEW])
    voters = [cookies.read(cookies.mint(POLL), POLL).int for _ in range(200)]
    assert all(0 < sum(voter >> bit & 1 for voter in voters) < 200 for bit in range(128))


def test_a_cookie_of_the_old_key_is_valid_after_a_rotation():
    cookie = VoterCookies([OLD]).mint(POLL)
    assert VoterCookies([OLD]).read(cookie, POLL) is not None
    assert VoterCookies([NEW, OLD]).read(cookie, POLL) == VoterCookies([OLD]).read(cookie, POLL)


def test_the_newest_key_signs():
    cookie = VoterCookies([NEW, OLD]).mint(POLL)
    assert VoterCookies([NEW]).read(cookie, POLL) is not None
    assert VoterCookies([OLD]).read(cookie, POLL) is None


def test_every_truncated_cookie_is_invalid():
    cookies = VoterCookies([NEW])
    cookie = cookies.mint(POLL)
    assert [cookies.read(cookie[:end], POLL) for end in range(len(cookie))] == [None] * len(cookie)


def test_the_signature_is_that_of_itsdangerous():
    signed = "VvT_oqd20jaX2vBHsBUgbP9zy9Ee7QaK--EtzpqxbjM"
    assert VoterCookies([NEW]).read(f"{'0' * 32}.{signed}", POLL) == UUID(int=0)
    # The same key and value with another salt.
    signed = "TImhqhOuvGiuqBCWrkuQllaOagaWFyDjCFTm2BGFGpw"
    assert VoterCookies([NEW]).read(f"{'0' * 32}.{signed}", POLL) is None


@pytest.mark.parametrize("value", ["0" * 31, "", "not hex" * 5, "ü"])
def test_a_signed_value_that_is_not_a_voter_id_is_invalid(value):
    cookies = VoterCookies([NEW])
    signature = cookies.sign(value, POLL)
    assert cookies.read(f"{value}.{signature}", POLL) is None


@given(st.text())
def test_any_other_text_is_invalid(cookie):
    assert VoterCookies([NEW]).read(cookie, POLL) is None


@st.composite
def mutations(draw):
    """Return a cookie, another one, and a text that changes and combines their parts."""
    cookie, other = (VoterCookies([NEW]).mint(POLL) for _ in range(2))
    pieces = [cookie, cookie.upper(), other, *cookie.split("."), *other.split(".")]
    changed = draw(st.sampled_from(pieces))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(changed)))
        end = draw(st.integers(start, len(changed)))
        put = draw(st.one_of(st.sampled_from(["", ".", "=", "\0", *pieces]), st.text(max_size=3)))
        changed = changed[:start] + put + changed[end:]
    return cookie, other, changed


@given(mutations())
def test_no_change_to_a_cookie_makes_another_voter(made):
    cookies = VoterCookies([NEW])
    *minted, changed = made
    assert cookies.read(changed, POLL) in {None, *(cookies.read(each, POLL) for each in minted)}


def test_a_cookie_of_another_poll_is_invalid():
    cookies = VoterCookies([NEW])
    cookie = cookies.mint("another")
    assert cookies.read(cookie, POLL) is None
    assert cookies.read(cookie, "another") is not None


@pytest.mark.parametrize(
    ("secure", "port", "name"),
    [
        (False, 80, "voter"),
        (False, 8080, "voter-8080"),
        (True, 443, "__Host-voter"),
        (True, 8443, "__Host-voter-8443"),
    ],
)
def test_cookies_of_polls_on_other_ports_have_other_names(secure, port, name):
    assert cookie_name("voter", secure=secure, port=port) == name


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        ([], None),
        ([("cookie", "")], None),
        ([("cookie", "other=1")], None),
        ([("cookie", "wanted=1")], ["1"]),
        ([("cookie", "wanted=")], [""]),
        ([("cookie", "a=b; wanted = 1=2 ;c")], ["1=2"]),
        ([("cookie", "unwanted=0; wanted=1; wanted=2")], ["1", "2"]),
        # HTTP/2 allows a client to split them, and a proxy may pass on several headers.
        ([("cookie", "wanted=1"), ("cookie", "a=b")], ["1"]),
        ([("cookie", "a=b"), ("accept", "c"), ("cookie", "wanted=1")], ["1"]),
        # Other headers hold no cookies.
        ([("accept", "wanted=1"), ("accept", "wanted=2")], None),
    ],
)
def test_a_cookie_is_found_at_any_position(headers, values):
    raw = [(name.encode(), text.encode()) for name, text in headers]
    assert read_cookies(request_headers({"headers": raw})).get("wanted") == values
