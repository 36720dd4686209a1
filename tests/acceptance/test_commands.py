"""The operator's commands, run as an operator runs them."""

import json
import re
import signal
import stat
import subprocess
import sys

import pytest
from support.app import GUARDIAN, VotingUp, holders
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

from .conftest import copy

AWAY = {
    "REDIS_URL": "unix:///tmp/voting-missing.sock",
    "DATABASE_URL": "postgresql://postgres@/postgres?host=/tmp/voting-missing",
}


def voting(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "voting", *arguments],
        input=stdin,
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def voted(up: VotingUp) -> VotingUp:
    """Cast three votes, and wait until they are counted."""
    assert up.vote("a")
    assert up.vote("a")
    assert up.vote("b")
    wait_for("the votes to be counted", lambda: up.tally() == {"a": 2, "b": 1})
    return up


@pytest.fixture(scope="module")
def poll(running):
    """A `voting up` with three votes, which tests restore if they change them."""
    running.reset()
    return voted(running)


def test_an_audit_of_a_running_voting_up_finds_no_problem_until_the_data_is_altered(poll):
    command = ("audit", "--data", str(poll.data))

    plain = voting(*command)
    assert (plain.returncode, plain.stderr) == (0, "")
    first, *_, last = plain.stdout.splitlines()
    assert first == "votes         Cats 2, Dogs 1"
    assert last == "no problems"

    machine = voting(*command, "--json")
    found = json.loads(machine.stdout)
    assert (machine.returncode, found["problems"], found["entries"]) == (0, [], 3)

    poll.sql("UPDATE tally SET votes = votes + 1 WHERE choice = 'a'")
    altered = voting(*command)
    poll.sql("UPDATE tally SET votes = votes - 1 WHERE choice = 'a'")
    assert (altered.returncode, altered.stderr) == (1, "")
    assert altered.stdout.splitlines()[-1] == "the tally is not the sum of the votes"

    poll.sql("UPDATE votes SET seq = seq + 1 WHERE choice = 'b'")
    machine = voting(*command, "--json")
    poll.sql("UPDATE votes SET seq = seq - 1 WHERE choice = 'b'")
    found = json.loads(machine.stdout)
    assert (machine.returncode, found["altered"], len(found["problems"])) == (1, 1, 1)
    assert found["votes"] == found["tally"] == [2, 1]


def test_a_replay_recounts_votes_that_the_database_lost(poll):
    command = ("replay", "--data", str(poll.data))
    nothing = voting(*command)
    assert (nothing.returncode, nothing.stderr) == (0, "")
    assert nothing.stdout.splitlines()[-2:] == [
        "recounted     0",
        "complete for the time that the queue covers",
    ]

    poll.sql("DELETE FROM votes WHERE choice = 'a'")
    poll.sql("UPDATE tally SET votes = 0 WHERE choice = 'a'")
    assert voting("audit", "--data", str(poll.data)).returncode == 1
    again = voting(*command, "--json")
    assert again.returncode == 0
    found = json.loads(again.stdout)
    assert (found["entries"], found["votes"]) == (3, 2)
    wait_for("the tally", lambda: poll.tally() == {"a": 2, "b": 1})
    assert voting("audit", "--data", str(poll.data)).returncode == 0


def test_commands_find_a_running_voting_up_whose_sockets_are_in_a_temporary_directory(
    start, data, used
):
    folder = data / "so und ähnlich"
    folder.mkdir(mode=0o711)
    up = start(copy(used, folder)).ready()
    assert voting("audit", "--data", str(folder)).returncode == 0
    assert up.interrupt() == 0
    assert not (folder / "run").exists()
    assert voting("audit", "--data", str(folder)).returncode == 2
    # What it left does not keep the next one from starting.
    assert start(folder).ready().interrupt() == 0


def test_the_urls_of_a_voting_up_are_private_and_used_only_while_it_runs(start, data):
    up = start(data).ready()
    urls = data / "servers.env"
    assert stat.filemode(urls.stat().st_mode) == "-rw-------"
    assert voting("status", "--data", str(data)).returncode == 0
    up.kill()
    wait_for("its processes to end", lambda: not holders(data))
    assert urls.exists()  # a killed `voting up` can't delete it
    refused = voting("status", "--data", str(data))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Error: invalid settings:\n")
    assert start(data).ready().interrupt() == 0
    assert not urls.exists()


@pytest.mark.parametrize("command", ["audit", "replay"])
def test_without_servers_both_missing_settings_are_named(data, command):
    refused = voting(command, "--data", str(data))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "Error: invalid settings:",
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
def test_a_server_that_is_unreachable_is_reported_in_one_line(poll, command, away):
    # With votes there is something to compare.
    servers = {
        "DATABASE_URL": poll.servers.database_url(),
        "REDIS_URL": poll.servers.redis_url,
    }
    failed = voting(command, **{**servers, away: AWAY[away]})
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("Error: the ")


@pytest.mark.parametrize("options", [[], ["--wait=0.2"]])
def test_a_migration_reports_an_unreachable_database_in_one_line(options):
    failed = voting("migrate", *options, **AWAY, LOG_LEVEL="warning")
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith("Error: the database can't be migrated: ")


def test_a_wait_for_the_schema_logs_the_reason_and_ends_on_sigterm():
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "voting", "wait"],
        env={**ENVIRON, **AWAY, "LOG_FORMAT": "console"},
        stderr=subprocess.PIPE,
        text=True,
        process_group=GUARDIAN.group,
    ) as waiting:
        assert "wait: waiting for the database reason=" in waiting.stderr.readline()
        waiting.terminate()
        assert waiting.wait(DEADLINE) == 128 + signal.SIGTERM
        assert waiting.stderr.read() == ""


def test_a_wait_for_a_schema_that_is_there_ends_at_once(running):
    url = running.servers.database_url()
    done = voting("wait", DATABASE_URL=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_database_that_is_not_migrated_is_reported_in_one_line(running):
    running.sql("CREATE DATABASE empty")
    servers = {
        "DATABASE_URL": running.servers.database_url("empty"),
        "REDIS_URL": running.servers.redis_url,
    }
    failed = voting("audit", **servers)
    assert failed.returncode == 1
    [line] = failed.stderr.splitlines()
    assert re.search(r'relation "\w+" does not exist', line)


def test_the_votes_of_a_running_voting_up_are_exported(poll):
    done = voting("export", "--data", str(poll.data))
    assert (done.returncode, done.stderr) == (0, "")
    head, *_, last = done.stdout.splitlines()
    assert head == "time,votes,a: Cats,b: Dogs"
    assert last.endswith(",3,2,1")
    votes = voting("export", "--votes", "--data", str(poll.data))
    assert sorted(votes.stdout.splitlines()) == ["a,Cats", "a,Cats", "b,Dogs", "vote,option"]
