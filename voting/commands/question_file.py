"""Questions in a file: YAML, or CSV as spreadsheets write it."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import yaml

from voting.poll.question import Question


class InvalidQuestions(Exception):
    """The file has no valid questions; `problems` has a line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_questions(content: bytes, form: str) -> list[Question]:
    """Read all questions of a file of the form `yaml` or `csv`.

    YAML has a list of mappings of `title`, a text, and `options`, a list of texts; CSV has the
    title and the options in a row. Raises InvalidQuestions, with each problem of each question.
    """
    parse = {"csv": _parse_csv, "yaml": _parse_yaml}[form]
    questions, problems = [], []
    try:
        # Spreadsheets begin UTF-8 with a mark.
        for line, found in parse(content.decode("utf-8-sig")):
            wrong = found.find_problems() if isinstance(found, Question) else [found]
            problems += [f"line {line}: {each}" for each in wrong]
            if isinstance(found, Question):
                questions.append(found)
    except UnicodeDecodeError:
        problems.append("it is not UTF-8")
    except yaml.YAMLError as error:
        problems.append(_describe(error))
    if problems or not questions:
        raise InvalidQuestions(problems or ["it has no question"])
    return questions


def _parse_csv(text: str) -> Iterator[tuple[int, Question | str]]:
    """Yield each row's line, with its question or what is wrong with it."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in rows:
            while row and not row[-1].strip():  # a spreadsheet fills rows up
                row.pop()
            if row:
                yield line, Question.of(row[0], row[1:])
            line = rows.line_num + 1
    except csv.Error as error:
        yield line, str(error)


def _parse_yaml(text: str) -> Iterator[tuple[int, Question | str]]:
    """Yield each item's line, with its question or what is wrong with it. Raises YAMLError.

    Of nodes, which have lines and each scalar as it is written: yes and 1.0 are texts here.
    """
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    if document is None:
        return
    if not isinstance(document, yaml.SequenceNode):
        yield 1, "there is no list of questions"
        return
    for item in document.value:
        line = item.start_mark.line + 1
        fields = _as_fields(item)
        title, options = fields.get("title"), fields.get("options")
        if (
            fields.keys() == {"title", "options"}
            and isinstance(title, yaml.ScalarNode)
            and isinstance(options, yaml.SequenceNode)
            and all(isinstance(each, yaml.ScalarNode) for each in options.value)
        ):
            yield line, Question.of(title.value, [each.value for each in options.value])
        else:
            yield line, "a question has a title, which is a text, and options, a list of texts"


def _as_fields(node: Any) -> dict[str, Any]:
    """Return the nodes of a mapping by their keys; nothing if there are other keys than texts."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _describe(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that no YAML may have
        return str(error).partition("\n")[0]
    return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'it is no YAML'}"
