"""`voting load` against `voting up`."""

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

import httpx
import psutil
import pytest
from click.testing import CliRunner
from support.app import GUARDIAN
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

from voting.commands.cli import cli

from .test_commands import voting

SUMMARY = re.compile(r"^\d+ s, .* ([\d,]+) acknowledged, ([\d,]+) refused, ([\d,]+) unknown, p50 ")


def at(up):
    """Return the options for the pages of `up`, below `localhost`."""
    vote, result = (
        up.address(page).replace("127.0.0.1", "x.localhost") for page in ("vote", "result")
    )
    return ("--vote-url", vote, "--result-url", result)


def counts(output):
    """Return from the last line of progress how many are acknowledged, refused, unknown."""
    found = [match for line in output.splitlines() if (match := SUMMARY.match(line))]
    return tuple(int(each.replace(",", "")) for each in found[-1].groups()) if found else (0, 0, 0)


class Load:
    """A running `voting load`, with its output so far."""

    def __init__(self, *options: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="voting-load-", suffix=".log")[1])
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-P", "-m", "voting", "load", *options],
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
        wait_for(f"{votes} votes", lambda: counts(self.output)[0] >= votes or not self.runs)
        assert self.runs, self.output

    def wait_for_silence(self) -> None:
        """Wait until two more lines of progress have the same number of acknowledged votes."""

        def same() -> bool:
            return self.output.count(f" {counts(self.output)[0]:,} acknowledged") > 2

        wait_for("no more responses", same)

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


def test_a_record_has_each_acknowledgement_and_is_checked_later(running, tmp_path):
    record = tmp_path / "record"
    urls = {"VOTE_URL": at(running)[1], "RESULT_URL": at(running)[3] + "/"}
    options = ("--votes", "100", "--voters", "30", "--rate", "1000", "--record", str(record))
    load = voting("load", *options, **urls)
    assert (load.returncode, counts(load.stdout)) == (0, (100, 0, 0))
    assert not {"\x1b", "\r"} & {*load.stdout}  # it is no terminal

    header, *votes = map(json.loads, record.read_text().splitlines())
    assert header["result_url"] == at(running)[3]
    assert len(votes) == 100
    assert {each["acknowledgement"] for each in votes} == {"acknowledged"}
    assert all(re.fullmatch(r"[0-9a-f]{32}", each["voter"]) for each in votes)
    assert len({each["version"] for each in votes}) == 100
    newest = Counter({each["voter"]: each["choice"] for each in votes}.values())
    assert newest.total() == 30
    assert {each["round"] for each in votes} == {header["before"]["round"]}
    expected = Counter(header["before"]["by_option"]) + newest

    check = voting("load", "--check", str(record))
    assert (check.returncode, check.stderr) == (0, "")
    assert check.stdout == f"exact: a {expected['a']:,}, b {expected['b']:,}\n"
    assert running.tally() == expected


def test_a_load_goes_on_with_the_next_question_and_both_rounds_are_checked(start, data, tmp_path):
    up, record = start(data).ready(), tmp_path / "record"
    options = ("--rate", "200", "--options", "b,c", "--record", str(record), "--check")
    with loading(*at(up), *options) as load:
        load.acknowledged(100)
        ask = ("ask", "Tea?", "Yes", "No", "Later", "--yes", "--data", str(up.data))
        assert voting(*ask).returncode == 0
        load.acknowledged(counts(load.output)[0] + 300)
        load.process.send_signal(signal.SIGINT)
        assert load.process.wait(DEADLINE) == 0, load.output
        verdict = load.output.splitlines()[-1]
        refused = counts(load.output)[1]
    first, second = re.fullmatch(
        r"exact: round 1: a 0, b ([\d,]+); round 2: a 0, (b [\d,]+, c [\d,]+)", verdict
    ).groups()
    _, *votes = map(json.loads, record.read_text().splitlines())
    told = Counter((each["round"], each["acknowledgement"]) for each in votes)
    assert {number for number, _ in told} == {1, 2}
    assert told[1, "refused"] == refused > 0  # whose page showed the first question
    assert (first, second) != ("0", "b 0, c 0")

    again = voting("load", "--check", str(record))
    assert again.stdout == f"{verdict}\n"


def test_pages_whose_addresses_are_https_take_a_load_over_http(start, data):
    """As in a cluster, where the load uses the Services and not the Ingress."""
    up = start(data, VOTE_URL="https://vote.example", RESULT_URL="https://result.example").ready()
    assert httpx.get(up.address("vote")).headers["set-cookie"].startswith("__Host-voter=")
    load = voting("load", *at(up), "--votes", "100", "--wait", "60", "--check")
    assert (load.returncode, counts(load.stdout)) == (0, (100, 0, 0))
    assert load.stdout.splitlines()[-1].startswith("exact: ")


def test_a_lost_vote_and_a_vote_of_another_voter_are_found(running, tmp_path):
    record = tmp_path / "record"
    options = ("--votes", "50", "--revote-ratio", "0", "--record", str(record), "--check")
    assert voting("load", *at(running), *options).returncode == 0
    a, b = running.tally().values()

    newest = "WHERE choice = 'a' AND bucket = (SELECT max(bucket) FROM tally WHERE choice = 'a')"
    running.sql(f"UPDATE tally SET votes = votes - 1 {newest}")
    check = voting("load", "--check", str(record), "--timeout", "1")
    running.sql(f"UPDATE tally SET votes = votes + 1 {newest}")
    assert (check.returncode, check.stderr) == (1, "")
    votes = f"votes {a + b - 1:,} instead of {a + b:,}"
    assert check.stdout == f"differs: a {a - 1:,} instead of {a:,}, b {b:,}, {votes}\n"

    assert running.vote("a")
    check = voting("load", "--check", str(record), "--timeout", "1")
    assert check.returncode == 1
    assert check.stdout.startswith(f"differs: a {a + 1:,} instead of {a:,}, ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_load_with_its_summary_and_its_check(running, tmp_path, number):
    record = tmp_path / "record"
    with loading(*at(running), "--rate", "200", "--record", str(record), "--check") as load:
        load.acknowledged(100)
        load.process.send_signal(number)
        assert load.process.wait(DEADLINE) == 0
        assert load.output.splitlines()[-1].startswith("exact: a ")
        acknowledged, refused, unknown = counts(load.output)
    assert (refused, unknown) == (0, 0)
    assert len(record.read_text().splitlines()) == 1 + acknowledged


def test_a_second_signal_ends_it_at_once_and_votes_in_flight_are_unknown(running, tmp_path):
    record = tmp_path / "record"
    options = ("--voters", "9", "--rate", "1000", "--record", str(record))
    [vote] = running.children("vote")
    with loading(*at(running), *options) as load:
        load.acknowledged(50)
        vote.suspend()
        try:
            load.wait_for_silence()
            # Two of the same could be taken for one.
            load.process.send_signal(signal.SIGINT)
            load.process.send_signal(signal.SIGTERM)
            assert load.process.wait(DEADLINE) in {128 + signal.SIGINT, 128 + signal.SIGTERM}
        finally:
            vote.resume()
        assert counts(load.output)[2] == 9
    assert voting("load", "--check", str(record)).returncode == 0


def test_votes_in_flight_when_their_role_is_killed_are_unknown_and_the_check_allows_both(
    running,
):
    # Most voters have voted before, so that votes are in flight and not visits of the page.
    options = ("--revote-ratio", "0.9", "--votes", "4000", "--rate", "1000", "--check")
    [vote] = running.children("vote")
    with loading(*at(running), *options) as load:
        load.acknowledged(500)
        vote.suspend()
        load.wait_for_silence()
        vote.kill()
        assert load.process.wait(DEADLINE) == 0, load.output
        acknowledged, refused, unknown = counts(load.output)
        last = load.output.splitlines()[-1]
    assert acknowledged + refused + unknown == 4000
    assert acknowledged > 500
    assert unknown > 0
    assert last.startswith(("exact: a ", "consistent: a "))


@pytest.mark.parametrize("page", ["vote", "result"])
def test_a_page_that_does_not_respond_or_is_another_is_named(running, page):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://localhost:{reserved.getsockname()[1]}"
        failed = voting("load", *at(running), f"--{page}-url", url, "--check")
    assert (failed.returncode, failed.stdout) == (1, "")
    [line] = failed.stderr.splitlines()
    assert line.startswith(f"Error: no response from {url}/")
    other = voting("load", "--vote-url", at(running)[3])
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr == f"Error: {at(running)[3]}/ is not a page to vote on: status 200\n"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--votes", "0"], 2),
        (["--rate", "-1"], 2),
        (["--rate", "nan"], 2),
        (["--rate", "fast"], 2),
        (["--revote-ratio", "1.1"], 2),
        (["--options", "a,m"], 2),
        (["--vote-url", "localhost"], 2),
        (["--check", "/nowhere/at-all"], 1),
        (["--check", __file__], 1),
    ],
)
def test_wrong_options_end_it_without_a_traceback(options, code):
    failed = CliRunner().invoke(cli, ["load", *options])
    assert (failed.exit_code, failed.stdout) == (code, "")
    assert isinstance(failed.exception, SystemExit)
