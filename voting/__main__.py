"""The command `voting`: with no subcommand it runs the role that ROLE names.

Exit codes: 0 done, 1 it failed or the answer is no, 2 wrong use or settings.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from voting import __version__
from voting.load import options

if TYPE_CHECKING:
    from voting.settings import Role


def main() -> None:
    """Run the command line and exit."""
    arguments = _parser().parse_args()
    # What a command needs is imported once it is chosen: a version or wrong use is told at once.
    from voting.settings import SettingsError  # noqa: PLC0415 - as said

    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
    except SettingsError as error:
        _complain("the settings are not right:", *(f"  {line}" for line in error.problems))
        code = 2
    except OSError as error:
        _complain(str(error))
        code = 1
    except KeyboardInterrupt:  # `up` and the roles have a way of their own
        code = 130
    sys.exit(code)


def _role(_: argparse.Namespace) -> int:
    from voting.roles.run import run  # noqa: PLC0415 - as above

    return run()


def _operate(arguments: argparse.Namespace) -> int:
    # The vote role does without a database, and so without these.
    module, name = arguments.run
    # The first process of a container would not end by SIGTERM unless it asks for it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    command: Callable[[argparse.Namespace], int] = getattr(import_module(module), name)
    return command(arguments)


def _up(arguments: argparse.Namespace) -> int:
    from voting.local.up import up  # noqa: PLC0415 - nothing in production may need it

    return up(arguments)


def _load(arguments: argparse.Namespace) -> int:
    from voting.load.command import run  # noqa: PLC0415 - as above

    return run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="voting", description="Run the role that ROLE names, or one of the commands."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(command=_role)
    commands = parser.add_subparsers(title="commands", metavar="")

    up = commands.add_parser("up", help="run the whole app on this machine")
    up.set_defaults(command=_up)
    up.add_argument("--data", type=Path, metavar="DIR", help="where votes are kept")
    up.add_argument("--vote-port", type=int, default=8080, metavar="PORT")
    up.add_argument("--result-port", type=int, default=8081, metavar="PORT")
    up.add_argument(
        "--scale",
        type=_scale,
        action="append",
        default=[],
        metavar="ROLE=N",
        help="run N processes of a role",
    )
    migrate = commands.add_parser("migrate", help="bring the database to this version's schema")
    migrate.set_defaults(command=_operate, run=("voting.commands.database", "migrate"))
    migrate.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="for a server that is not there yet",
    )
    wait = commands.add_parser("wait", help="wait until the database has this version's schema")
    wait.set_defaults(command=_operate, run=("voting.commands.database", "wait"))
    _add_operators(commands)
    load_command = commands.add_parser("load", help=options.HELP)
    load_command.set_defaults(command=_load)
    options.add(load_command)
    return parser


def _add_operators(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    polls = "voting.commands.poll"
    status = _operator(commands, "status", polls, "status", "tell how the poll stands")
    status.add_argument("--json", action="store_true", help="print for machines")
    close = _operator(commands, "close", polls, "close", "close the poll, now or at a time")
    close.add_argument(
        "--at", metavar="TIME", help="20:15, 2026-11-24T20:15, +10m: closes by itself then"
    )
    close.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="for the totals to be final",
    )
    open_ = _operator(commands, "open", polls, "open_", "open the poll, or keep it open")
    reset = _operator(commands, "reset", polls, "reset", "keep a final round and start the next")
    for changes in (close, open_, reset):
        changes.add_argument("--yes", action="store_true", help="don't ask")
    for name, does in (
        ("audit", "check that queue, votes and tally agree"),
        ("replay", "count again what a restored database has lost"),
    ):
        operate = _operator(commands, name, "voting.commands.audit", name, does)
        operate.add_argument("--json", action="store_true", help="print for machines")
    export = _operator(
        commands, "export", "voting.commands.export", "export", "write totals and their timeline"
    )
    export.add_argument("--format", choices=("csv", "json"), default="csv")
    export.add_argument("--round", type=int, metavar="N", help="an earlier round")
    export.add_argument("--votes", action="store_true", help="the anonymous votes, one a line")
    export.add_argument("--output", type=Path, metavar="FILE", help="where to write; the terminal")


def _operator(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    module: str,
    function: str,
    does: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=does)
    parser.set_defaults(command=_operate, run=(module, function))
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="of a `voting up`, where no server is set"
    )
    return parser


def _scale(text: str) -> tuple["Role", int]:
    from voting.settings import Role  # noqa: PLC0415 - as above

    name, _, number = text.partition("=")
    try:
        role, count = Role(name), int(number)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError("must be like worker=3")
    return role, count


def _complain(*lines: str) -> None:
    print("voting:", "\n".join(lines), file=sys.stderr)  # noqa: T201 - the terminal is the place


if __name__ == "__main__":
    main()
