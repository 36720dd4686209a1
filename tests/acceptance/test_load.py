"""`voting load`, with the `voting up` that a newcomer has."""

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from environ import ENVIRON

from .conftest import DEADLINE, GUARDIAN, wait_for
from .test_commands import sql, voting

SUMMARY = re.compile(r"^\d+ s, .* ([\d,]+) acknowledged, ([\d,]+) refused, ([\d,]+) unknown, p50 ")


def at(up):
    """Name the pages of `up` as a browser does, without a name service."""
    vote, result = (
        up.address(page).replace("127.0.0.1", "x.localhost") for page in ("vote", "result")
    )
    return ("--vote-url", vote, "--result-url", result)


def told(output):
    """Read the last progress or summary: how many are acknowledged, refused, unknown."""
    found = [match for line in output.splitlines() if (match := SUMMARY.match(line))]
    return tuple(int(each.replace(",", "")) for each in found[-1].groups()) if found else (0, 0, 0)


class Load:
    """A running `voting load`, with what it said so far in `output`."""

    def __init__(self, *options: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="voting-load-", suffix=".log")[1])
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "voting", "load", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=ENVIRON,
                process_group=GUARDIAN.group,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def acknowledged(self, votes: int) -> None:
        wait_for(f"{votes} votes", lambda: told(self.output)[0] >= votes or not self.runs)
        assert self.runs, self.output

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        if self.runs:
            self.process.kill()
            self.process.wait(DEADLINE)
        self._log.unlink()


@contextmanager
def loading(*options):
    load = Load(*options)
    try:
        yield load
    finally:
        load.close()


def test_a_load_is_counted_exactly(running):
    load = voting("load", *at(running), "--votes", "300", "--check")
    assert (load.returncode, load.stderr) == (0, "")
    assert told(load.stdout) == (300, 0, 0)
    shown = running.tally()
    assert load.stdout.splitlines()[-1] == f"exact: a {shown['a']:,}, b {shown['b']:,}"
    assert "\x1b" not in load.stdout
    assert "\r" not in load.stdout


def test_addresses_are_those_of_the_environment_unless_told(running):
    addresses = {
        "VOTE_URL": running.address("vote"),
        "RESULT_URL": running.address("result") + "/",
    }
    load = voting("load", "--votes", "20", "--rate", "1000", "--check", **addresses)
    assert (load.returncode, told(load.stdout)) == (0, (20, 0, 0))


def test_of_few_voters_each_counts_once_with_the_newest_choice(running):
    before = sum(running.tally().values())
    load = voting("load", *at(running), "--votes", "100", "--voters", "7", "--check")
    assert (load.returncode, told(load.stdout)) == (0, (100, 0, 0))
    assert sum(running.tally().values()) == before + 7


def test_voters_who_vote_too_often_are_refused_and_the_rest_counts(running):
    load = voting("load", *at(running), "--votes", "100", "--voters", "2", "--check")
    recorded, refused, unknown = told(load.stdout)
    assert (load.returncode, recorded + refused, unknown) == (0, 100, 0)
    assert 40 <= recorded < 100


def test_a_record_says_what_each_voter_was_told_and_is_checked_later(running, tmp_path):
    record = tmp_path / "record"
    load = voting("load", *at(running), "--votes", "100", "--voters", "30", "--record", str(record))
    assert (load.returncode, told(load.stdout)) == (0, (100, 0, 0))

    header, *votes = map(json.loads, record.read_text().splitlines())
    assert header["result_url"] == at(running)[3]
    assert len(votes) == 100
    assert {each["told"] for each in votes} == {"yes"}
    assert all(re.fullmatch(r"[0-9a-f]{32}", each["voter"]) for each in votes)
    assert len({each["ballot"] for each in votes}) == 100
    newest = Counter({each["voter"]: each["choice"] for each in votes}.values())
    assert newest.total() == 30
    expected = Counter({key: header["before"][key] for key in "ab"}) + newest

    check = voting("load", "--check", str(record))
    assert (check.returncode, check.stderr) == (0, "")
    assert check.stdout == f"exact: a {expected['a']:,}, b {expected['b']:,}\n"
    assert running.tally() == expected


def test_a_lost_vote_is_found_and_named(running, tmp_path):
    record = tmp_path / "record"
    options = ("--votes", "50", "--changes", "0", "--record", str(record), "--check")
    load = voting("load", *at(running), *options)
    assert load.returncode == 0
    a, b = running.tally().values()

    newest = "WHERE bucket = (SELECT max(bucket) FROM tally)"
    sql(running, f"UPDATE tally SET a = a - 1 {newest}")
    check = voting("load", "--check", str(record), "--patience", "1")
    sql(running, f"UPDATE tally SET a = a + 1 {newest}")
    assert (check.returncode, check.stderr) == (1, "")
    votes = f"votes {a + b - 1:,} instead of {a + b:,}"
    assert check.stdout == f"differs: a {a - 1:,} instead of {a:,}, b {b:,}, {votes}\n"


def test_a_vote_of_somebody_else_is_found(running, tmp_path):
    record = tmp_path / "record"
    assert voting("load", *at(running), "--votes", "10", "--record", str(record)).returncode == 0
    assert running.vote("a")
    check = voting("load", "--check", str(record), "--patience", "1")
    assert check.returncode == 1
    assert check.stdout.startswith("differs: a ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_load_with_its_summary_and_its_check(running, tmp_path, number):
    record = tmp_path / "record"
    with loading(*at(running), "--rate", "200", "--record", str(record), "--check") as load:
        load.acknowledged(100)
        load.process.send_signal(number)
        assert load.process.wait(DEADLINE) == 0
        *_, _, last = load.output.splitlines()
        assert last.startswith("exact: a ")
        acknowledged, refused, unknown = told(load.output)
    assert (refused, unknown) == (0, 0)
    assert len(record.read_text().splitlines()) == 1 + acknowledged
    assert voting("load", "--check", str(record)).returncode == 0


def test_a_second_signal_ends_it_at_once_and_what_was_in_flight_is_unknown(running, tmp_path):
    record = tmp_path / "record"
    options = ("--voters", "9", "--rate", "1000", "--record", str(record))
    [vote] = running.children("vote")
    with loading(*at(running), *options) as load:
        load.acknowledged(50)
        vote.suspend()
        try:
            wait_for(
                "nothing to be answered",
                lambda: load.output.count(f" {told(load.output)[0]:,} acknowledged") > 2,
            )
            # Two of the same could be taken for one.
            load.process.send_signal(signal.SIGINT)
            load.process.send_signal(signal.SIGTERM)
            assert load.process.wait(DEADLINE) in {128 + signal.SIGINT, 128 + signal.SIGTERM}
        finally:
            vote.resume()
        assert told(load.output)[2] == 9
    assert voting("load", "--check", str(record)).returncode == 0


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(running):
    said = len(running.output)
    with loading(*at(running), "--votes", "2000", "--rate", "400", "--check") as load:
        load.acknowledged(300)
        running.children("worker")[0].kill()
        assert load.process.wait(DEADLINE) == 0, load.output
        assert told(load.output) == (2000, 0, 0)
        assert load.output.splitlines()[-1].startswith("exact: a ")
    assert "worker was killed by SIGKILL: starting it again" in running.output[said:]


def test_of_votes_in_flight_when_their_role_is_killed_the_fate_is_unknown(running, tmp_path):
    record = tmp_path / "record"
    # Most have voted before, so that what is in flight are votes, and not visits of the page.
    options = ("--changes", "0.9", "--votes", "4000", "--record", str(record), "--check")
    with loading(*at(running), *options) as load:
        load.acknowledged(500)
        running.children("vote")[0].kill()
        assert load.process.wait(DEADLINE) == 0, load.output
        acknowledged, refused, unknown = told(load.output)
        last = load.output.splitlines()[-1]
    assert acknowledged + refused + unknown == 4000
    assert acknowledged > 500
    assert unknown > 0
    assert last.startswith(("exact: a ", "as far as voters know: a "))
    check = voting("load", "--check", str(record))
    assert check.stdout.splitlines() == [last]


@pytest.mark.parametrize("page", ["vote", "result"])
def test_where_nobody_listens_a_line_says_so(running, page):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"http://localhost:{reserved.getsockname()[1]}"
        failed = voting("load", *at(running), f"--{page}-url", address, "--check")
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith(f"voting: nobody answers at {address}/")


def test_what_is_no_voting_page_gets_no_votes(running):
    address = running.address("result")
    failed = voting("load", "--vote-url", address)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"voting: {address}/ is no page to vote on: it answers 200\n"


def test_without_its_http_client_a_line_says_what_brings_it():
    code = "import sys; sys.modules['aiohttp'] = None; from voting.__main__ import main; main()"
    command = [sys.executable, "-c", code, "load"]
    failed = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert "pip install '.[local]'" in line


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--votes", "0"], 2),
        (["--rate", "-1"], 2),
        (["--rate", "nan"], 2),
        (["--rate", "fast"], 2),
        (["--changes", "1.1"], 2),
        (["--vote-url", "localhost"], 2),
        (["--check", "/nowhere/at-all"], 1),
        (["--check", __file__], 1),
    ],
)
def test_what_can_not_be_done_is_said_without_a_traceback(options, code):
    failed = voting("load", *options)
    assert (failed.returncode, failed.stdout) == (code, "")
    assert "Traceback" not in failed.stderr
