import json
import logging

import pytest

from voting import logs
from voting.settings import Settings


@pytest.fixture(autouse=True)
def root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_time_level_logger_role_and_message(capsys):
    logs.configure(Settings(), "worker")
    logging.getLogger("voting.x").warning("%s is away", "Redis")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").startswith("20")
    assert line == {
        "level": "WARNING",
        "logger": "voting.x",
        "message": "Redis is away",
        "role": "worker",
    }


def test_a_console_line_is_for_people(capsys):
    logs.configure(Settings(log_format="console"), "worker")
    logging.getLogger("voting.x").warning("Redis is away")
    assert capsys.readouterr().err.endswith(" worker: Redis is away\n")


def test_quieter_lines_are_left_out(capsys):
    logs.configure(Settings(log_level="error"), "worker")
    logging.getLogger("voting.x").warning("Redis is away")
    assert capsys.readouterr().err == ""
