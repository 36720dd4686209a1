import pytest

from voting.commands.question_file import InvalidQuestions, read_questions
from voting.poll.question import Question

DRINKS = Question("Tea, coffee or water?", ("Tea", "Coffee", "Water"))
LUNCH = Question('"Now" or later?', ("Yes", "No", "1.0", "قهوة ☕"))

YAML = """
# What to ask this evening
- title: Tea, coffee or water?
  options: [Tea, Coffee, Water]

- options:
    - Yes
    - No
    - 1.0
    - قهوة ☕
  title: '"Now" or later?'
"""
CSV = """"Tea, coffee or water?",Tea,Coffee,Water,,

\"""Now"" or later?",Yes, No ,1.0,قهوة ☕
,,
"""


def read(text, form, encoding="utf-8"):
    return read_questions(text if isinstance(text, bytes) else text.encode(encoding), form)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("text", "form"), [(YAML, "yaml"), (CSV, "csv")])
def test_a_file_has_questions_in_order_whose_words_are_texts(text, form, encoding):
    assert read(text, form, encoding) == [DRINKS, LUNCH]
    assert read(text.replace("\n", "\r\n"), form, encoding) == [DRINKS, LUNCH]


NO_QUESTION = "a question has a title, which is a text, and options, a list of texts"

NO_QUESTIONS = (
    *("- What?", "- [Tea]", "- title: What?", "- {[a]: b}", "- {title: What, options: Tea}"),
    *("- {title: [a], options: [Tea, Coffee]}", "- {title: What, options: [Tea, [Coffee]]}"),
    "- {title: What, options: [Tea, Coffee], close-at: +1m}",
)
DRINK = "- title: What?\n  options: [Tea, Coffee]"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["it has no question"]),
        ("# nothing", ["it has no question"]),
        ("[]", ["it has no question"]),
        ("title: What?", ["line 1: there is no list of questions"]),
        ("- title: What?\n  options: [Tea", ["line 2: expected ',' or ']', but got"]),
        ("- {title: a, options: [a, b]}\n---\n", ["line 2: but found another document"]),
        ("- \0", ["unacceptable character #x0000: special characters are not allowed"]),
        (b"- \xff", ["it is not UTF-8"]),
        (
            "\n".join(NO_QUESTIONS),
            [f"line {n}: {NO_QUESTION}" for n, _ in enumerate(NO_QUESTIONS, start=1)],
        ),
        (
            f"{DRINK}\n- title: ''\n  options: [Tea]\n\n- title: What?\n  options: [Tea, 'Tea ']",
            [
                "line 3: the title is empty",
                "line 3: 2 to 12 options are needed, not 1",
                "line 6: option 2 is the same as option 1",
            ],
        ),
    ],
)
def test_each_problem_of_yaml_is_told_with_its_line(text, problems):
    with pytest.raises(InvalidQuestions) as refused:
        read(text, "yaml")
    found = refused.value.problems
    assert all(line.startswith(each) for line, each in zip(found, problems, strict=True)), found


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["it has no question"]),
        ("\n,,\n", ["it has no question"]),
        (b"What?,T\xe9,Caf\xe9\n", ["it is not UTF-8"]),
        (
            'What?,Tea,Coffee\n\n\nWhat?,Tea\n"Tw\no",a,a\nx,a,\n',
            [
                "line 4: 2 to 12 options are needed, not 1",
                "line 5: the title has a control character",
                "line 5: option 2 is the same as option 1",
                "line 7: 2 to 12 options are needed, not 1",
            ],
        ),
        (
            'What?,Tea\n"Tea"x,Coffee\n',
            ["line 1: 2 to 12 options are needed, not 1", "line 2: ',' expected after '\"'"],
        ),
        ('What?,Tea,Coffee\n"What?', ["line 2: unexpected end of data"]),
        (",Tea,Coffee\n", ["line 1: the title is empty"]),
    ],
)
def test_each_problem_of_csv_is_told_with_its_line(text, problems):
    with pytest.raises(InvalidQuestions) as refused:
        read(text, "csv")
    assert refused.value.problems == problems
