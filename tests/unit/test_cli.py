"""The command line itself: what it imports, its exit codes, its shell completion."""

import os
import signal
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from support.environ import ENVIRON

from voting.commands.cli import cli

CLIENTS = {"redis", "sqlalchemy"}
HEAVY = {*CLIENTS, "asyncio", "pydantic", "structlog"}


def modules(*arguments):
    """Run a command and return the modules that it has imported when it ends."""
    code = (
        "import atexit, sys\n"
        "from voting.__main__ import main\n"
        "atexit.register(lambda: print('\\n' + ' '.join(sys.modules)))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--version"], HEAVY),
        (["--help"], HEAVY),
        (["up", "--help"], {*CLIENTS, "structlog"}),
        (["migrate", "--help"], {"redis"}),
        (["wait", "--help"], {"redis"}),
        (["load", "--help"], CLIENTS),
    ],
)
def test_a_command_does_not_wait_for_imports_that_it_does_not_need(arguments, unneeded):
    imported = modules(*arguments)
    assert "voting.commands.cli" in imported
    assert unneeded.isdisjoint(imported)


@pytest.mark.parametrize("name", list(cli.commands))
def test_the_list_of_commands_has_each_by_its_name_and_the_first_line_of_its_help(name):
    lazy = cli.commands[name]
    command = lazy.load()
    assert command.name == name
    assert command.get_short_help_str(limit=100) == lazy.short_help
    assert len(lazy.short_help) <= 60  # click shortens what does not fit beside the names


def complete(*words):
    """Return what a shell offers after these words, the last of which is incomplete."""
    completion = ShellComplete(cli, {}, "voting", "_VOTING_COMPLETE")
    *before, incomplete = words
    return [item.value for item in completion.get_completions(before, incomplete)]


def test_a_shell_completes_subcommands_and_their_options():
    assert complete("") == sorted(cli.commands)
    assert complete("re") == ["replay", "reset"]
    assert complete("close", "--") == ["--data", "--at", "--wait", "--yes", "--help"]
    assert complete("export", "--format", "") == ["csv", "json"]


def test_the_command_offers_its_completion_to_shells():
    script = subprocess.run(
        [sys.executable, "-m", "voting"],
        env={**ENVIRON, "_VOTING_COMPLETE": "zsh_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert script.stdout.startswith("#compdef voting")


@pytest.mark.parametrize(
    "arguments",
    [["vote"], ["--loud"], ["close", "--at"], ["migrate", "--wait", "-1"], ["status", "extra"]],
)
def test_wrong_use_ends_with_exit_code_2(arguments):
    refused = subprocess.run(
        [sys.executable, "-m", "voting", *arguments],
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (click.ClickException("no"), 1, "Error: no\n"),
        (click.UsageError("no"), 2, "Error: no\n"),
    ],
)
def test_errors_have_the_exit_codes_of_the_contract(monkeypatch, capsys, error, code, message):
    def invoke(*_):
        raise error

    monkeypatch.setattr(click.Group, "invoke", invoke)
    with pytest.raises(SystemExit) as ended:
        cli(["status"], prog_name="voting")
    assert ended.value.code == code
    assert capsys.readouterr().err == message


def test_ctrl_c_ends_a_command_that_waits_with_exit_code_130():
    away = {"DATABASE_URL": "postgresql://postgres@/postgres?host=/nowhere"}
    with subprocess.Popen(
        [sys.executable, "-m", "voting", "wait"],
        env={**ENVIRON, **away, "LOG_FORMAT": "console"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs, perhaps this test run, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads
    ) as waiting:
        assert "waiting for the database" in waiting.stderr.readline()
        os.kill(waiting.pid, signal.SIGINT)
        assert waiting.wait(60) == 128 + signal.SIGINT
        assert "Traceback" not in waiting.stderr.read()
