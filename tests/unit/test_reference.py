"""The reference pages say what the code has: each setting, command, route, and nothing else."""

import re

import pytest
from click.testing import CliRunner
from litestar import Litestar
from pydantic_core import PydanticUndefined
from sqlalchemy.ext.asyncio import create_async_engine
from support.docs import ROOT, blocks

from voting.commands.cli import LazyCommand, cli
from voting.queue.client import Queue, connect
from voting.queue.state import QueueState
from voting.roles.admin import AdminRole
from voting.settings import ROLE_SETTINGS, AdminSettings, Role
from voting.web import ops

REFERENCE = ROOT / "docs/reference"

# For tests only.
UNDOCUMENTED = {"CLAIM_MIN_IDLE", "MAINTENANCE_INTERVAL"}


def rows(page: str, columns: int) -> list[list[str]]:
    """Return the rows of the page's tables with that many columns, without their heads."""
    text = (REFERENCE / page).read_text()
    lines = re.findall(r"^\| (.*) \|$(?!\n\|--)", text, re.MULTILINE)
    cells = (re.split(r" \| ", line) for line in lines)
    return [each for each in cells if len(each) == columns]


def default_of(role: Role, name: str) -> str:
    value = ROLE_SETTINGS[role].model_fields[name].default
    if value is PydanticUndefined:
        return "required"
    return "none" if value in {None, ""} or value == () else f"`{value}`"


def default_in_words(defaults: dict[Role, str]) -> str:
    """Return the default that most roles have, and that of each other role."""
    [first, *_] = sorted(defaults.values(), key=list(defaults.values()).count, reverse=True)
    others = [f"{role}: {value}" for role, value in defaults.items() if value != first]
    return "; ".join([first, *others])


def spelled_out(variables: str) -> str:
    """Put each option's variable in the place of "`OPTION_C` to `OPTION_L`"."""
    first, to, last = variables.partition(" to ")
    if not to:
        return variables
    letters = map(chr, range(ord(first[-2]), ord(last[-2]) + 1))
    return " ".join(f"`OPTION_{letter}`" for letter in letters)


def test_the_page_has_each_setting_of_each_role_with_its_default_and_no_other():
    read = {}
    for role, model in ROLE_SETTINGS.items():
        for name in model.model_fields:
            read.setdefault(name.upper(), {})[role] = default_of(role, name)
    expected = {
        name: (set(of), default_in_words(of))
        for name, of in read.items()
        if name not in UNDOCUMENTED
    }
    expected["ROLE"] = (set(Role), "required")
    found = {}
    for variable, readers, default, _ in rows("settings.md", 4):
        named = readers.split("; ")[0]
        roles = set(Role) if named == "every role" else set(named.split(", "))
        for name in re.findall(r"`(\w+)`", spelled_out(variable)):
            assert name not in found
            found[name] = (roles, default)
    assert found == expected


def commands() -> dict[str, list[str]]:
    """Return the arguments that name each command, group and subcommand."""
    found = {"voting": []}
    for name, lazy in cli.commands.items():
        command = lazy.load() if isinstance(lazy, LazyCommand) else lazy
        for inner in ([], *([each] for each in getattr(command, "commands", ()))):
            found[" ".join(["voting", name, *inner])] = [name, *inner]
    return found


def test_the_page_has_each_command_and_no_other():
    asked = [block.commands for block in blocks((REFERENCE / "commands.md").relative_to(ROOT))]
    assert asked == [(f"{name} --help",) for name in commands()]


@pytest.mark.parametrize("name", commands())
def test_the_page_has_the_help_of_each_command(name):
    shown = blocks((REFERENCE / "commands.md").relative_to(ROOT))
    [block] = [block for block in shown if block.commands == (f"{name} --help",)]
    said = CliRunner().invoke(cli, [*commands()[name], "--help"], prog_name="voting")
    assert "\n".join(block.output) == said.stdout.rstrip()


def described(role: str) -> set[tuple[str, str]]:
    """Return the method and the path of each route in the role's OpenAPI document."""
    document = ops.load_openapi(role)
    return {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in (document["components"]["pathItems"]["Page"] if "$ref" in item else item)
    }


def routes(app: Litestar) -> set[tuple[str, str]]:
    return {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path))
        for route in app.routes
        for method in route.methods
        if method not in {"OPTIONS", "HEAD"}
    }


def admin() -> Litestar:
    engine = create_async_engine("postgresql+asyncpg://unused")
    url = "redis://unused"
    settings = AdminSettings(redis_url=url, database_url="postgresql://unused", admin_token="none")
    state = QueueState(Queue(connect(url)))
    return AdminRole(state, engine, settings, audits=engine).create_app()


async def is_ready() -> bool:
    return True


def test_the_page_has_each_route_of_each_role_and_no_other():
    pages = {
        Role.VOTE: described("vote"),
        Role.RESULT: described("result"),
        Role.ADMIN: routes(admin()),
    }
    of_ops = {role: routes(ops.create_ops_app(role, "c0ffee", is_ready)) for role in Role}
    every = set.intersection(*of_ops.values())
    expected = {(role, *route) for role, found in pages.items() for route in found}
    expected |= {(role, *route) for role in Role for route in of_ops[role] - every}
    expected |= {("every role", *route) for route in every}
    found = [
        (role, *re.findall(r"`([A-Z]+) (\S+)`", route)[0])
        for roles, route, _ in rows("http.md", 3)
        for role in roles.split(", ")
    ]
    assert sorted(found) == sorted(expected)
