import pytest

from voting.web.texts import TEXTS, say


@pytest.mark.parametrize(("n", "said"), [(0, "0 votes"), (1, "1 vote"), (1234, "1,234 votes")])
def test_a_text_agrees_with_its_number(n, said):
    assert say("votes", n) == said


def test_what_is_filled_in_is_text_not_markup():
    assert say("is_counted", option="<b>") == "Your vote for &lt;b&gt; is counted."


def test_texts_are_short():
    texts = [
        each for text in TEXTS.values() for each in ([text] if isinstance(text, str) else text)
    ]
    assert [each for each in texts if len(each) > 120] == []
