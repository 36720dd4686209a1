"""The operator's commands, as an operator runs them."""

import asyncio
import json
import signal
import subprocess
import sys

import asyncpg
import pytest
from environ import ENVIRON

from voting.local.servers import DataDir

from .conftest import DEADLINE, GUARDIAN, Up, copy, wait_for

AWAY = {
    "REDIS_URL": "unix:///tmp/voting-nobody.sock",
    "DATABASE_URL": "postgresql://postgres@/postgres?host=/tmp/voting-nobody",
}


def voting(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voting", *arguments],
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def sql(up: Up, statement: str) -> None:
    async def run() -> None:
        url = DataDir(up.data, up.data / "run").database_url()
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def voted(up: Up) -> Up:
    """Vote thrice, and wait until that is counted."""
    assert up.vote("a")
    assert up.vote("a")
    assert up.vote("b")
    wait_for("the votes to be counted", lambda: up.tally() == {"a": 2, "b": 1})
    return up


@pytest.fixture(scope="module")
def poll(running):
    """The `voting up` of this module, with three votes: the tests leave them as they were."""
    return voted(running)


def test_an_audit_of_a_running_voting_up_is_fine_until_somebody_alters_it(poll):
    command = ("audit", "--data", str(poll.data))

    plain = voting(*command)
    assert (plain.returncode, plain.stderr) == (0, "")
    first, *_, last = plain.stdout.splitlines()
    assert first == "votes         a 2, b 1"
    assert last == "fine"

    machine = voting(*command, "--json")
    found = json.loads(machine.stdout)
    assert (machine.returncode, found["problems"], found["entries"]) == (0, [], 3)

    sql(poll, "UPDATE tally SET a = a + 1")
    altered = voting(*command)
    sql(poll, "UPDATE tally SET a = a - 1")
    assert (altered.returncode, altered.stderr) == (1, "")
    assert altered.stdout.splitlines()[-1] == "the tally is not the sum of the votes"

    sql(poll, "UPDATE votes SET seq = seq + 1 WHERE choice = 'b'")
    machine = voting(*command, "--json")
    sql(poll, "UPDATE votes SET seq = seq - 1 WHERE choice = 'b'")
    found = json.loads(machine.stdout)
    assert (machine.returncode, found["altered"], len(found["problems"])) == (1, 1, 1)
    assert found["votes"] == found["tally"] == {"a": 2, "b": 1}


def test_a_replay_counts_again_what_the_database_has_lost(poll):
    command = ("replay", "--data", str(poll.data))
    nothing = voting(*command)
    assert (nothing.returncode, nothing.stderr) == (0, "")
    assert nothing.stdout.splitlines()[-2:] == [
        "counted again 0",
        "fine, as far as the queue goes back",
    ]

    sql(poll, "DELETE FROM votes WHERE choice = 'a'")
    sql(poll, "UPDATE tally SET a = 0")
    assert voting("audit", "--data", str(poll.data)).returncode == 1
    again = voting(*command, "--json")
    assert again.returncode == 0
    found = json.loads(again.stdout)
    assert (found["entries"], found["votes"]) == (3, 2)
    wait_for("the tally", lambda: poll.tally() == {"a": 2, "b": 1})
    assert voting("audit", "--data", str(poll.data)).returncode == 0


def test_a_running_voting_up_is_found_where_its_sockets_are_elsewhere(start, data, used):
    folder = data / "so und ähnlich"
    folder.mkdir(mode=0o711)
    up = start(copy(used, folder)).ready()
    assert voting("audit", "--data", str(folder)).returncode == 0
    assert up.interrupt() == 0
    assert not (folder / "run").exists()
    assert voting("audit", "--data", str(folder)).returncode == 2
    # Its trace does not keep the next one from starting.
    assert start(folder).ready().interrupt() == 0


@pytest.mark.parametrize("command", ["audit", "replay"])
def test_without_settings_and_a_running_voting_up_both_settings_are_named(data, command):
    refused = voting(command, "--data", str(data))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "voting: the settings are not right:",
        "  DATABASE_URL: is required",
        "  REDIS_URL: is required",
    ]


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_one_server_that_is_set_is_never_paired_with_one_that_is_not(running, name):
    refused = voting("audit", "--data", str(running.data), **{name: AWAY[name]})
    [other] = AWAY.keys() - {name}
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [f"  {other}: is required"]


@pytest.mark.parametrize("command", ["audit", "replay"])
@pytest.mark.parametrize("away", ["DATABASE_URL", "REDIS_URL"])
def test_a_server_that_can_not_be_reached_is_told_in_one_line(poll, command, away):
    # There is something to compare.
    folders = DataDir(poll.data, poll.data / "run")
    servers = {"DATABASE_URL": folders.database_url(), "REDIS_URL": folders.redis_url}
    failed = voting(command, **{**servers, away: AWAY[away]})
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("voting: the ")


@pytest.mark.parametrize("options", [[], ["--wait=0.2"]])
def test_a_migration_says_in_one_line_that_the_database_is_away(options):
    failed = voting("migrate", *options, **AWAY, LOG_LEVEL="warning")
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("voting: the database can't be migrated: ")


def test_who_waits_for_the_schema_says_why_and_ends_when_asked():
    with subprocess.Popen(
        [sys.executable, "-m", "voting", "wait"],
        env={**ENVIRON, **AWAY, "LOG_FORMAT": "console"},
        stderr=subprocess.PIPE,
        text=True,
        process_group=GUARDIAN.group,
    ) as waiting:
        assert "wait: waiting for the database reason=" in waiting.stderr.readline()
        waiting.terminate()
        assert waiting.wait(DEADLINE) == 128 + signal.SIGTERM
        assert waiting.stderr.read() == ""


def test_who_waits_for_a_schema_that_is_there_goes_on_at_once(running):
    url = DataDir(running.data, running.data / "run").database_url()
    done = voting("wait", DATABASE_URL=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_database_that_is_not_migrated_is_told_in_one_line(running):
    sql(running, "CREATE DATABASE empty")
    folders = DataDir(running.data, running.data / "run")
    servers = {"DATABASE_URL": folders.database_url("empty"), "REDIS_URL": folders.redis_url}
    failed = voting("audit", **servers)
    assert failed.returncode == 1
    [line] = failed.stderr.splitlines()
    assert 'relation "votes" does not exist' in line


def test_the_votes_of_a_running_voting_up_are_exported(poll):
    done = voting("export", "--data", str(poll.data), OPTION_B="Hounds")
    assert (done.returncode, done.stderr) == (0, "")
    head, *_, last = done.stdout.splitlines()
    assert head == "time,votes,a: Cats,b: Hounds"
    assert last.endswith(",3,2,1")
    votes = voting("export", "--votes", "--data", str(poll.data))
    assert sorted(votes.stdout.splitlines()) == ["a,Cats", "a,Cats", "b,Dogs", "vote,option"]
