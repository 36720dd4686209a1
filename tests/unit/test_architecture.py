import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from imports import FLOORS, FORBIDDEN, draw, graph, modules, package_graph

from voting.settings import Role

EDGES = graph()
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for each in EDGES[todo.pop()] - seen:
            seen.add(each)
            todo.append(each)
    return seen


def test_the_drawing_has_every_package_at_the_top():
    assert set(package_graph()) == set(FLOOR)
    assert len(FLOOR) == 12


def test_packages_import_only_what_stands_below_them():
    wrong = {
        (name, other)
        for name, others in package_graph().items()
        for other in others
        if FLOOR[other] <= FLOOR[name] or other in FORBIDDEN.get(name, ())
    }
    assert wrong == set(), draw()


def test_modules_have_no_import_circle():
    TopologicalSorter(EDGES).prepare()


@pytest.mark.parametrize("role", Role)
def test_roles_never_import_each_other(role):
    others = set(Role) - {role}
    assert reachable(f"roles.{role}").isdisjoint({f"roles.{each}" for each in others})


@pytest.mark.parametrize(("role", "server"), [("vote", "database"), ("result", "queue")])
def test_a_role_imports_nothing_that_imports_the_server_it_does_not_use(role, server):
    assert not {each for each in reachable(f"roles.{role}") if each.split(".")[0] == server}


@pytest.mark.parametrize(
    ("role", "packages"),
    [("vote", {"sqlalchemy", "asyncpg", "alembic"}), ("result", {"redis", "hiredis"})],
)
def test_a_role_loads_no_package_of_the_server_it_does_not_use(role, packages):
    code = f"import sys, voting.roles.{role}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert f"voting.roles.{role}" in loaded
    assert packages.isdisjoint(loaded)


@pytest.mark.parametrize("package", ["commands", "local", "load"])
def test_only_the_command_line_imports(package):
    importers = {name for name, others in package_graph().items() if package in others}
    assert importers <= {"__main__"}


def test_packages_explain_themselves_and_re_export_nothing():
    for name in FLOOR.keys() - {"__main__", "settings"}:
        source = modules()[name].read_text().strip()
        assert source.startswith('"""'), name
        assert source.endswith('"""'), name
        assert source.count('"""') == 2, name
