import pytest

from voting.web.texts import TEXTS, text


@pytest.mark.parametrize(("n", "expected"), [(0, "0 votes"), (1, "1 vote"), (1234, "1,234 votes")])
def test_a_text_agrees_with_its_number(n, expected):
    assert text("votes", n) == expected


def test_values_are_escaped():
    assert text("is_counted", option="<b>") == "Your vote for &lt;b&gt; is counted."


def test_texts_are_short():
    texts = [each for one in TEXTS.values() for each in ([one] if isinstance(one, str) else one)]
    assert [each for each in texts if len(each) > 120] == []
