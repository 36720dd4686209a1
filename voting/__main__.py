"""The command `voting`: with no subcommand it runs the role that ROLE names.

Exit codes: 0 done, 1 it failed, 2 wrong use or settings.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from voting import __version__, logs
from voting.settings import (
    DatabaseSettings,
    ResultSettings,
    Role,
    RoleSettings,
    SettingsError,
    VoteSettings,
    WorkerSettings,
    load,
    load_role,
)

_SETTINGS: dict[Role, type[RoleSettings]] = {
    Role.VOTE: VoteSettings,
    Role.RESULT: ResultSettings,
    Role.WORKER: WorkerSettings,
}


def main() -> None:
    """Run the command line and exit."""
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
    except SettingsError as error:
        _complain("the settings are not right:", *(f"  {line}" for line in error.problems))
        code = 2
    except OSError as error:
        _complain(str(error))
        code = 1
    sys.exit(code)


def _role(_: argparse.Namespace) -> int:
    role = load_role(os.environ)
    settings = load(_SETTINGS[role], os.environ)
    logs.configure(settings, role)
    # Only the role's own module: vote must run without a database driver's worth of memory.
    run = import_module(f"voting.roles.{role}").run
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(run(settings))
    return 0


def _migrate(_: argparse.Namespace) -> int:
    from voting.database import DATABASE_ERRORS  # noqa: PLC0415 - the vote role does without
    from voting.schema import migrate  # noqa: PLC0415 - the roles do without Alembic

    settings = load(DatabaseSettings, os.environ)
    logs.configure(settings, "migrate")
    try:
        migrate(settings.database_url.get_secret_value())
    except DATABASE_ERRORS as error:
        _complain(f"the database can't be migrated: {error}")
        return 1
    return 0


def _up(arguments: argparse.Namespace) -> int:
    from voting.local import up  # noqa: PLC0415 - nothing in production may need it

    return up(arguments)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - commands do without

    return uvloop.new_event_loop()


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
    migrate.set_defaults(command=_migrate)
    return parser


def _scale(text: str) -> tuple[Role, int]:
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
