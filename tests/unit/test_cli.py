"""The command line itself: what it imports, its exit codes, its shell completion."""

import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
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
    command = [sys.executable, "-c", code, *arguments]
    said = subprocess.check_output(command, env=ENVIRON, text=True)
    return set(said.splitlines()[-1].split())


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
    assert complete("re") == ["replay", "reset", "reveal"]
    assert complete("close", "--") == ["--data", "--at", "--wait", "--yes", "--help"]
    assert complete("export", "--format", "") == ["csv", "json"]


def test_the_command_offers_its_completion_to_shells():
    environ = {**ENVIRON, "_VOTING_COMPLETE": "zsh_source"}
    script = subprocess.check_output([sys.executable, "-P", "-m", "voting"], env=environ)
    assert script.startswith(b"#compdef voting")


@pytest.mark.parametrize(
    "arguments",
    [["vote"], ["--loud"], ["close", "--at"], ["migrate", "--wait", "-1"], ["status", "extra"]],
)
def test_wrong_use_ends_with_exit_code_2(arguments):
    refused = CliRunner().invoke(cli, arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
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
def test_errors_have_the_exit_codes_of_the_contract(monkeypatch, error, code, message):
    def invoke(*_):
        raise error

    monkeypatch.setattr(click.Group, "invoke", invoke)
    ended = CliRunner().invoke(cli, ["status"])
    assert (ended.exit_code, ended.stderr) == (code, message)
