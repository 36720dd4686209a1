"""How children are restarted, in cases that are too slow or too rare with a whole `voting up`."""

import os
import sys
from pathlib import Path

import pytest
from support.wait import until

from voting.local import supervisor
from voting.local.supervisor import Child, Guardian, Program


class Reports:
    """The lines that a child reports; `wait_for` waits for so many."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def wait_for(self, count: int) -> list[str]:
        await until(lambda: len(self.lines) >= count)
        return self.lines


@pytest.fixture
def guardian(tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    guardian = Guardian(lock)
    yield guardian
    guardian.close()
    os.close(lock)


async def always() -> bool:
    return True


def program(*command: str, log: Path | None = None) -> Program:
    return Program("sleeper", command, dict(os.environ), ready=always, log=log)


async def test_a_child_that_ran_long_is_restarted_after_the_shortest_delay(guardian, monkeypatch):
    monkeypatch.setattr(supervisor, "STABLE_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "RESTART_DELAYS", (0.0, 3600.0))
    reports = Reports()
    child = Child(program(sys.executable, "-c", "exit(3)"), guardian, reports.lines.append)
    await child.start()
    lines = await reports.wait_for(4)
    assert set(lines) == {"sleeper ended with exit code 3, restarting"}
    await child.stop(10)


async def test_a_failed_restart_is_retried_until_it_succeeds(guardian, monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "RESTART_DELAYS", (0.0,))
    reports = Reports()
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nrm $0\n")
    tool.chmod(0o700)
    child = Child(program(str(tool)), guardian, reports.lines.append)
    await child.start()
    assert "can't be restarted" in (await reports.wait_for(3))[2]
    tool.write_text("#!/bin/sh\nexec sleep 3600\n")
    tool.chmod(0o700)
    first = child.pid
    await until(lambda: child.pid != first)
    await child.stop(10)


async def test_a_restart_reports_the_log_of_the_process_that_ended(guardian, monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "RESTART_DELAYS", (0.0, 0.0, 3600.0))
    reports = Reports()
    log = tmp_path / "log"
    log.write_text("of yesterday\n")
    child = Child(program("/bin/sh", "-c", "echo $$", log=log), guardian, reports.lines.append)
    await child.start()
    lines = await reports.wait_for(3)
    said = log.read_text().split()[2:]
    assert [line.partition("\n    ")[2] for line in lines] == said
    await child.stop(10)


async def test_a_child_that_does_not_stop_in_time_is_killed(guardian):
    reports = Reports()
    ready = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    child = Child(program(sys.executable, "-c", ready), guardian, reports.lines.append)
    await child.start()
    await child.stop(0)
    assert reports.lines == ["sleeper did not stop in 0 s and is killed"]
