from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import pytest_asyncio
from support.app import data_folder

from faults.replicated import ReplicatedStack
from faults.runs import table
from faults.stack import Stack

_Stack = TypeVar("_Stack", bound=Stack)


@asynccontextmanager
async def running(kind: type[_Stack]) -> AsyncIterator[_Stack]:
    with data_folder() as folder:
        folder.joinpath("run").mkdir()
        async with kind(folder) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def stack() -> AsyncIterator[Stack]:
    async with running(Stack) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def replicated() -> AsyncIterator[ReplicatedStack]:
    async with running(ReplicatedStack) as stack:
        yield stack


@pytest.fixture
def votes(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--votes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repeat" in metafunc.fixturenames:
        times = metafunc.config.getoption("--repeat")
        metafunc.parametrize("repeat", range(times), ids=lambda number: f"{number + 1}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Tests run in other processes, so their results come with their reports.
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    found = [run for report in reports for name, run in report.user_properties if name == "run"]
    if found:
        terminalreporter.section("faults")
        terminalreporter.write_line(table(found))
