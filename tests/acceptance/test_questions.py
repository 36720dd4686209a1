"""`voting questions`: what will be asked, prepared as a person who leads a vote does it."""

import json
from pathlib import Path

import pytest

from .test_commands import AWAY, voting
from .test_poll_commands import lines


@pytest.fixture
def running(running):
    yield running
    running.sql("DELETE FROM questions")


def listed(up):
    return json.loads("\n".join(lines(up, "questions", "list", "--json")))


def test_questions_are_added_listed_and_removed(running, tmp_path):
    assert lines(running, "questions", "list") == []
    [line] = lines(running, "questions", "add", " What now? ", "Tea", "قهوة ☕")
    number, _, text = line.partition(" ")
    assert text.strip() == "What now?: Tea, قهوة ☕"
    file = tmp_path / "evening.yaml"
    file.write_text("- {title: Which, options: [One, Two]}\n- {title: Who, options: [You, Me]}\n")
    assert [
        line.split()[1] for line in lines(running, "questions", "add", "--file", str(file))
    ] == [
        "What",
        "Which:",
        "Who:",
    ]
    found = listed(running)
    assert [each["question"] for each in found] == [
        {"title": "What now?", "names": ["Tea", "قهوة ☕"]},
        {"title": "Which", "names": ["One", "Two"]},
        {"title": "Who", "names": ["You", "Me"]},
    ]
    assert str(found[0]["id"]) == number

    # A number stays the same when another question is gone.
    lines(running, "questions", "remove", number)
    left = lines(running, "questions", "remove", str(found[2]["id"]))
    assert left == [f"{found[1]['id']:<5} Which: One, Two"]
    gone = voting("questions", "remove", number, "--data", str(running.data))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == f"Error: there is no question {number}\n"


@pytest.mark.parametrize(
    ("name", "form", "content"),
    [
        ("-", "yaml", "- {title: Which, options: [One, Two]}"),
        ("-", "csv", "Which,One,Two"),
        ("evening.YML", None, "- {title: Which, options: [One, Two]}"),
        ("evening.CSV", None, "Which,One,Two"),
        ("evening", "csv", "Which,One,Two"),
        ("evening.yaml", "csv", "Which,One,Two"),
    ],
)
def test_a_file_may_come_from_elsewhere_and_have_any_name(running, tmp_path, name, form, content):
    """Into a pod, whose file system is read-only, by the standard input."""
    if name != "-":
        name = str(tmp_path / name)
        Path(name).write_text(content)
    options = ["--file", name, *(["--format", form] if form else [])]
    added = voting("questions", "add", *options, "--data", str(running.data), stdin=content)
    assert (added.returncode, added.stderr) == (0, "")
    [found] = listed(running)
    assert found["question"] == {"title": "Which", "names": ["One", "Two"]}


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ([], ["either a question or --file is needed"]),
        (["What?", "Tea"], ["2 to 12 options are needed, not 1"]),
        (["", "Tea", "Tea"], ["the title is empty", "option 2 is the same as option 1"]),
        (["What?", "--file", "{file}"], ["either a question or --file is needed"]),
        (
            ["--file", "{file}"],
            ["no question was added:", "line 2: 2 to 12", "line 3: the title is empty"],
        ),
        (["--file", "missing.csv"], ["No such file or directory"]),
        (["--file", "-"], ["<stdin>: --format is needed, yaml or csv"]),
        (["--file", __file__], ["--format is needed, yaml or csv"]),
    ],
)
def test_what_can_not_be_asked_is_refused_with_each_reason_and_none_is_added(
    running, tmp_path, arguments, problems
):
    file = tmp_path / "evening.csv"
    file.write_text("Which?,One,Two\nWhat?,Tea\n ,You,Me\n")
    words = [each.format(file=file) for each in arguments]
    refused = voting("questions", "add", *words, "--data", str(running.data))
    assert (refused.returncode, refused.stdout) == (2, "")
    said = refused.stderr.splitlines()[-len(problems) :]
    assert all(each in line for each, line in zip(problems, said, strict=True)), said
    assert listed(running) == []


@pytest.mark.parametrize("command", [["list"], ["add", "What?", "a", "b"], ["remove", "1"]])
def test_unreachable_servers_are_reported_in_one_line(command):
    failed = voting("questions", *command, **AWAY)
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("Error: the questions can't be reached")
