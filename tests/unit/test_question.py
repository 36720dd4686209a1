"""Which questions can be asked."""

import pytest

from voting.poll.ballot import Choice
from voting.poll.question import CHOICES, Option, Question

NAMES = tuple(f"Option {number}" for number in range(1, 14))


@pytest.mark.parametrize("count", range(2, 13))
def test_two_to_twelve_options_have_the_first_keys_in_order(count):
    question = Question("Which?", NAMES[:count])
    assert question.find_problems() == []
    assert "".join(question.choices) == "abcdefghijkl"[:count]
    assert question.options == tuple(map(Option, CHOICES[:count], NAMES))
    assert question.name(CHOICES[count - 1]) == NAMES[count - 1]


def test_an_option_that_there_is_not_has_no_name():
    with pytest.raises(IndexError):
        Question("Which?", NAMES[:11]).name(Choice.L)


def test_white_space_at_the_ends_is_no_part_of_a_text():
    assert Question.of(" Which? \n", ["\tOne ", "Two"]) == Question("Which?", ("One", "Two"))
    assert Question.of(" ", ["One", "Two"]).find_problems() == ["the title is empty"]


@pytest.mark.parametrize(
    ("title", "names", "problem"),
    [
        ("Which?", (), "2 to 12 options are needed, not 0"),
        ("Which?", ("One",), "2 to 12 options are needed, not 1"),
        ("Which?", NAMES, "2 to 12 options are needed, not 13"),
        ("", ("One", "Two"), "the title is empty"),
        ("x" * 201, ("One", "Two"), "the title has 201 characters, 200 at most are possible"),
        ("Which\n?", ("One", "Two"), "the title has a control character"),
        ("Which?", ("One", "Two", "One"), "option 3 is the same as option 1"),
        # The same letter, composed and decomposed.
        ("Which?", ("Caf\u00e9", "Cafe\u0301"), "option 2 is the same as option 1"),
        ("Which?", ("One", ""), "option 2 is empty"),
        ("Which?", ("One", "x" * 61), "option 2 has 61 characters, 60 at most are possible"),
        *(
            ("Which?", ("One", f"T{each}wo"), "option 2 has a control character")
            for each in "\0\t\n\x1b\x7f\x85\u2028\u2029\ud800"
            "\u00ad\u200b\u202a\u202e\u2060\u2066\u2069\ufeff\U000e0001"
        ),
        *(
            (each, ("One", "Two"), "the title has no visible character")
            for each in ("\u200e", "\u200d \ufe0f", "\u3164", "\u2800", "\U000e0067\U000e007f")
        ),
    ],
)
def test_what_can_not_be_asked_is_told(title, names, problem):
    assert Question(title, names).find_problems() == [problem]


def test_every_problem_is_told_at_once():
    names = ("", "Two", "", "Two", "x" * 60 + "\n", *NAMES)
    assert Question("x" * 200 + "\0", names).find_problems() == [
        "the title has 201 characters, 200 at most are possible",
        "the title has a control character",
        "2 to 12 options are needed, not 18",
        "option 1 is empty",
        "option 3 is empty",
        "option 4 is the same as option 2",
        "option 5 has 61 characters, 60 at most are possible",
        "option 5 has a control character",
    ]


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("قطط أم كلاب؟", ("قطط", "كلاب", "\u200fלא יודע")),
        ("\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645", ("\u061cعربي", "A\u200e (B)\u200f")),
        (
            "Which flag?",
            ("🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "❤️\u200d🔥"),
        ),
        ("🐈 or 🐕?", ("👩\u200d👩\u200d👧", "🏳️\u200d🌈", "🇺🇦")),
        ("x" * 200, ("x" * 60, "y" * 60)),
        ("🐈" * 200, ("🐈" * 60, "🐕" * 60)),
        ("<b>Which?</b>", ("=1+1", '"One", two')),
        ("Which?", ("One", "one")),
    ],
)
def test_any_other_text_can_be_asked(title, names):
    assert Question(title, names).find_problems() == []
    assert Question.of(title, names) == Question(title, names)
