"""The command `voting`: a subcommand, or without one the role that ROLE names.

Exit codes: 0 done, 1 the command failed or its answer is no, 2 wrong use or settings, 130 Ctrl-C.
"""

import gc
import os
import signal
import sys
from pkgutil import resolve_name
from typing import Any

import click

from voting import __version__


class LazyCommand(click.Command):
    """The name and short help of a subcommand whose module is not imported yet."""

    def __init__(self, name: str, path: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._path = path

    def load(self) -> click.Command:
        command: click.Command = resolve_name(self._path)
        return command


class LazyGroup(click.Group):
    """Imports the module of a subcommand when it is chosen.

    The clients of Redis and Postgres take most of a second to import. `--version`, `--help`, shell
    completion and misspelled subcommands do not need them.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run what was chosen, and map errors to the exit codes above."""
        # pydantic is slow to import too.
        from voting.settings import SettingsError  # noqa: PLC0415

        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.UsageError("\n  ".join(["invalid settings:", *error.problems])) from None
        except BrokenPipeError:
            raise  # Click exits without a message
        except OSError as error:
            raise click.ClickException(str(error)) from None
        except (KeyboardInterrupt, click.Abort):  # Click's own code for both is 1
            raise click.exceptions.Exit(128 + signal.SIGINT) from None


@click.group(cls=LazyGroup, invoke_without_command=True)
@click.version_option(__version__, message="%(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run the role that ROLE names, or a command."""
    if context.invoked_subcommand is None:
        from voting.roles.run import run  # noqa: PLC0415 - a subcommand needs no role

        context.exit(run())


for name, path, short_help in (
    ("ask", "voting.commands.poll:ask", "Ask the next question."),
    ("audit", "voting.commands.audit:audit", "Check that queue, votes and tally agree."),
    ("close", "voting.commands.poll:close", "Close the poll, now or at a time."),
    ("export", "voting.commands.export:export", "Export totals over time, or the anonymous votes."),
    ("load", "voting.load.command:load", "Cast votes over HTTP and check the result."),
    ("migrate", "voting.commands.database:migrate", "Migrate the database to this version."),
    ("open", "voting.commands.poll:reopen", "Reopen the poll, or cancel a planned close."),
    (
        "questions",
        "voting.commands.questions:questions",
        "Prepare questions, which the admin page asks.",
    ),
    ("replay", "voting.commands.audit:replay", "Recount ballots that a restored database lost."),
    ("reset", "voting.commands.poll:reset", "Ask the same question again."),
    ("reveal", "voting.commands.poll:reveal", "Show the totals that SHOW_RESULTS hides."),
    ("status", "voting.commands.poll:status", "Show the state of the poll."),
    ("up", "voting.local.up:up", "Run the whole app on this machine."),
    ("wait", "voting.commands.database:wait", "Wait until the database is migrated."),
):
    cli.add_command(LazyCommand(name, path, short_help))


def main() -> None:
    """Run the command line and exit."""
    # Imports make hardly any garbage, but by default a tenth of their time is spent to look for it.
    gc.set_threshold(200_000)
    # The first process of a container ignores SIGTERM unless it handles it. Not by an exception as
    # long as modules are imported: Python ignores one that is raised in a callback of an import.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    cli(prog_name="voting")
