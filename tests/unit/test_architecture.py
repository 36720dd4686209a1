import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from imports import LAYERS, draw, graph, modules

EDGES = graph()
ORDER = [name for _, names in reversed(LAYERS) for name in names]


def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for each in EDGES[todo.pop()] - seen:
            seen.add(each)
            todo.append(each)
    return seen


def test_every_module_has_its_place_in_the_drawing():
    assert sorted(ORDER) == sorted(modules())


def test_imports_point_one_way():
    upwards = {
        (name, other)
        for name in EDGES
        for other in EDGES[name]
        if ORDER.index(other) >= ORDER.index(name)
    }
    assert upwards == set(), draw()


def test_imports_have_no_circle():
    TopologicalSorter(EDGES).prepare()


@pytest.mark.parametrize("role", ["vote", "result", "worker"])
def test_roles_never_import_each_other(role):
    assert not {each for each in EDGES[f"roles.{role}"] if each.startswith("roles")}


def test_the_vote_role_knows_nothing_of_postgres():
    assert reachable("roles.vote").isdisjoint({"database", "tally", "models", "schema"})


def test_the_result_role_knows_nothing_of_redis():
    assert reachable("roles.result").isdisjoint({"stream", "casting"})


def test_only_the_commands_import_the_embedded_servers():
    local = {"local", "folder", "embedded", "supervisor"}
    importers = {name for name in EDGES if EDGES[name] & local}
    assert importers <= local | {"__main__", "operating"}


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("__main__", {"asyncio", "pydantic", "structlog", "redis", "sqlalchemy"}),
        ("local", {"structlog", "redis", "sqlalchemy"}),
        ("schema_commands", {"redis"}),
    ],
)
def test_who_starts_a_command_does_not_wait_for_what_it_does_not_need(module, others):
    code = f"import sys, voting.{module}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert others.isdisjoint(loaded)
