"""`voting export`, as an operator runs it, in a process of its own."""

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from support.database import ask, execute, insert_tally, question_of
from support.environ import ENVIRON

from voting.database.poll import confirm_close, declare_final, start_round
from voting.database.totals import fetch_result
from voting.poll.ballot import Version
from voting.poll.question import Question

COMMAND = [sys.executable, "-P", "-m", "voting", "export"]
UNTIL = Version(9, 0)

# By how many kilobytes interpreter and buffers differ from run to run.
NOISE = 6_000

PART = 20_000  # rows


async def fill(engine, number):
    """Insert votes, two thirds of them for a, each in a bucket of its own."""
    await execute(engine, "TRUNCATE votes, tally")
    choice = "CASE WHEN n % 3 = 0 THEN 'b' ELSE 'a' END"
    # In parts, each well within the statement timeout.
    for first in range(1, number + 1, PART):
        numbers = f"generate_series({first}, {min(first + PART - 1, number)}) AS n"
        await execute(
            engine,
            "INSERT INTO votes (voter, choice, ms, seq) SELECT"
            f" gen_random_uuid(), {choice}, n, 0 FROM {numbers}",
        )
        await insert_tally(
            engine,
            "SELECT '2020-01-01 00:00+00'::timestamptz + n * interval '10 seconds',"
            f" ARRAY[(n % 3 <> 0)::int, (n % 3 = 0)::int], 1 FROM {numbers}",
        )


async def close(engine):
    async with engine.connect() as connection:
        await connection.execute(text("UPDATE poll SET state = 'closed'"))
        await confirm_close(connection, (await fetch_result(engine)).totals.at, UNTIL)
    assert await declare_final(engine, UNTIL)


@pytest.fixture
def export(database_url):
    def run(*arguments, stdout=subprocess.PIPE, **environ):
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**ENVIRON, "DATABASE_URL": database_url, **environ},
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )

    return run


def rows(output):
    return list(csv.reader(io.StringIO(output.decode(), newline="")))


def error_line(finished):
    """Return the error; wrong use has the usage of the command before it."""
    *usage, line = finished.stderr.decode().splitlines()
    assert bool(usage) == (finished.returncode == 2)
    return line


async def test_timeline_is_written_to_the_terminal(export, admin):
    await ask(admin, Question("Pets", ("قطط", "Dogs")))
    await fill(admin, 3)
    # The question is that of the round.
    done = export(OPTION_A="Cats")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rows(done.stdout) == [
        ["time", "votes", "a: قطط", "b: Dogs"],
        ["2020-01-01T00:00:20+00:00", "1", "1", "0"],
        ["2020-01-01T00:00:30+00:00", "2", "2", "0"],
        ["2020-01-01T00:00:40+00:00", "3", "2", "1"],
    ]
    found = json.loads(export("--format=json", POLL_TITLE="Others").stdout)
    assert (found["title"], found["votes"], len(found["timeline"])) == ("Pets", 3, 3)


async def test_file_gets_its_name_once_it_is_complete(export, tmp_path, admin):
    await fill(admin, 3)
    path = tmp_path / "result.csv"
    path.write_text("older")
    done = export("--output", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(rows(path.read_bytes())) == 4


async def test_failure_midway_leaves_an_older_file_and_no_other(export, tmp_path, admin):
    # The totals can be read, and the head is written, before the bucket that can't be read.
    await fill(admin, 3)
    path = tmp_path / "result.csv"
    path.write_text("older")
    await execute(admin, "ALTER TABLE tally RENAME TO buckets")
    await execute(
        admin,
        "CREATE VIEW tally AS SELECT round, choice, votes, bucket + interval '1 second'"
        " / (bucket < '2020-01-01 00:00:25+00')::int AS bucket FROM buckets",
    )
    await execute(admin, "GRANT SELECT ON tally TO voting_worker")
    failed = export("--output", str(path))
    assert failed.returncode == 1
    assert error_line(failed) == "Error: the votes can't be exported: division by zero"
    assert (path.read_text(), list(tmp_path.iterdir())) == ("older", [path])


@pytest.mark.parametrize("path", ["/dev/null", "{}", "{}/none/result.csv"])
async def test_output_path_that_is_not_a_file_is_left_alone(export, tmp_path, path):
    refused = export("--output", path.format(tmp_path))
    assert refused.returncode in {1, 2}
    assert error_line(refused).startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


async def test_exported_votes_have_neither_a_voter_nor_an_order(export, admin):
    await fill(admin, 300)
    one, other = export("--votes"), export("--votes")
    assert (one.returncode, one.stderr) == (0, b"")
    head, *votes = rows(one.stdout)
    assert head == ["vote", "option"]
    assert Counter(map(tuple, votes)) == {("a", "Cats"): 200, ("b", "Dogs"): 100}
    # Equal once in 10^80 by chance.
    assert votes != rows(other.stdout)[1:]
    assert Counter(json.loads(export("--votes", "--format=json").stdout)["choices"]) == {
        "a": 200,
        "b": 100,
    }


async def test_hidden_votes_are_refused_and_hidden_totals_left_out(export, engine, admin):
    await fill(admin, 3)
    refused = export("--votes", SHOW_RESULTS="after_close")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert error_line(refused) == "Error: the votes are hidden until the result is shown"
    assert rows(export(SHOW_RESULTS="after_close").stdout)[-1] == ["2020-01-01T00:00:40+00:00", "3"]
    await close(engine)
    assert len(rows(export("--votes", SHOW_RESULTS="after_close").stdout)) == 4
    assert rows(export(SHOW_RESULTS="after_close").stdout)[-1][1:] == ["3", "2", "1"]


async def test_earlier_round_has_totals_and_no_votes(export, engine, admin, operator):
    await fill(admin, 3)
    await close(engine)
    await start_round(operator, 1, question_of(5))
    head, *_, last = rows(export("--round=1").stdout)
    assert (head[2:], last[1:]) == (["a: Cats", "b: Dogs"], ["3", "2", "1"])
    assert len(rows(export("--votes", "--round=2").stdout)) == 1
    await execute(admin, "INSERT INTO votes VALUES (gen_random_uuid(), 'e', 1, 0)")
    assert rows(export("--votes").stdout) == [["vote", "option"], ["e", "Option 5"]]
    assert rows(export().stdout)[0][2:] == [
        f"{key}: Option {n}" for n, key in enumerate("abcde", 1)
    ]
    refused = export("--votes", "--round=1")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert "are not kept" in error_line(refused)
    nowhere = export("--round=3")
    assert nowhere.returncode == 2
    assert error_line(nowhere) == "Error: Invalid value for --round: there is no round 3"


async def test_pipe_closed_by_its_reader_ends_the_export_quietly(database_url, admin):
    await fill(admin, 20_000)
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs
        COMMAND,
        env={**ENVIRON, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith(b"time")
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (141, b"")


async def test_full_disk_is_reported_in_one_line(export, admin):
    await fill(admin, 3)
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
        failed = export(stdout=full)
    assert failed.returncode == 1
    assert "No space left" in error_line(failed)


# Not getrusage of the child, which begins with the memory of its parent.
MEASURED = """
import atexit, pathlib, sys
from voting.__main__ import main
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text(), file=sys.stderr))
sys.argv[1:1] = ["export"]
main()
"""


def peak(database_url, *options):
    """Run the export, discard its output, and return its peak memory in kilobytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *options],
        env={**ENVIRON, "DATABASE_URL": database_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return int(re.search(r"VmHWM:\s+(\d+) kB", done.stderr)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak in /proc")
async def test_ten_times_the_rows_need_no_more_memory(database_url, admin):
    exports = (["--votes"], ["--format=csv"], ["--format=json"])
    await fill(admin, 20_000)
    few = [peak(database_url, *options) for options in exports]
    await fill(admin, 200_000)
    many = [peak(database_url, *options) for options in exports]
    for options, less, more in zip(exports, few, many, strict=True):
        assert more - less < NOISE, (options, less, more)


def test_only_the_database_url_is_required(export, tmp_path):
    # The data directory of a `voting up` that does not run.
    refused = export("--data", str(tmp_path), DATABASE_URL="")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [b"  DATABASE_URL: is required"]
