"""`voting up` from its start to its stop, with ports, disks and processes that fail."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

import httpx
import psutil
import pytest
import segno
from support.app import FREE_PORTS, VotingUp, alive, holders
from support.environ import ENVIRON
from support.wait import wait_for

from voting.local.address import resolve
from voting.web.svg import qr_code

from .conftest import copy
from .test_commands import voting


def port_of(address: str) -> str:
    return str(httpx.URL(address).port)


def listening(process: psutil.Process, port: str) -> int:
    """Count the connections that `process` has accepted on that port."""
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == int(port)
        for each in process.net_connections("tcp")
    )


# Stopping


def test_sigterm_stops_everything_in_order_and_prints_one_line(start, data):
    up = start(data).ready()
    assert up.vote("b")  # it is counted while the others stop
    children, output = up.children(), up.output
    up.process.terminate()
    assert up.process.wait(60) == 0
    assert not alive(children)
    # A role would log an error if its server stopped before it.
    assert up.output == output + "voting: stopping\n"
    assert "database system is shut down" in (data / "postgres.log").read_text()
    assert "bye bye" in (data / "valkey.log").read_text()
    assert start(data).ready().tally() == {"a": 0, "b": 1}


def test_a_second_ctrl_c_ends_it_at_once_and_leaves_no_process_behind(start, data):
    up = start(data).ready()
    assert up.vote("b")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 0, "b": 1})
    children = up.children()
    # A suspended role delays the stop, and the kernel sends its group SIGHUP when `voting up` ends.
    up.children("vote")[0].suspend()
    up.process.send_signal(signal.SIGINT)
    wait_for("the stop to begin", lambda: "stopping" in up.output)
    assert up.interrupt() == 128 + signal.SIGINT
    wait_for("its processes to end", lambda: not alive(children))

    assert start(data).ready().tally() == {"a": 0, "b": 1}


@pytest.mark.parametrize("step", ["initdb", "postgres -D", "voting migrate", "worker"])
def test_ctrl_c_while_it_starts_stops_it_cleanly(start, data, step):
    folder = data / "new" if step == "initdb" else data
    up = start(folder)
    wait_for(step, lambda: up.children(step))
    children = up.children()
    assert up.interrupt() == 0
    assert not alive(children)
    assert up.output == "voting: stopping\n"
    assert not list(folder.glob("*.new"))
    assert not (folder / "run").exists()


def test_it_runs_without_its_terminal_and_stops_though_its_output_has_no_reader(data):
    options = ["--data", str(data), *FREE_PORTS]
    with subprocess.Popen(
        ["nohup", sys.executable, "-P", "-m", "voting", "up", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=ENVIRON,
    ) as process:
        try:
            assert any(b"Ctrl-C" in line for line in process.stdout)
            process.stdout.close()
            process.send_signal(signal.SIGHUP)  # had it begun to stop, the next would be the second
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert not holders(data)


# Where it is started


def test_nothing_in_the_current_folder_is_run(start, data, tmp_path):
    (tmp_path / "voting").mkdir()
    for name in ("calendar", "redis", "voting/__init__", "voting/__main__", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(
            "import pathlib; pathlib.Path(__file__ + '.ran').touch()"
        )
    up = start(data, popen={"cwd": tmp_path}).ready()
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
    assert not list(tmp_path.rglob("*.ran"))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="as others, Postgres runs as this user")


@as_root
def test_postgres_may_enter_a_new_folder_whatever_the_umask(start, data):
    up = start(data / "above" / "new", popen={"umask": 0o077}).ready()
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})


@as_root
def test_a_folder_that_postgres_may_not_enter_is_named_and_can_be_used_later(start, data):
    data.chmod(0o700)
    assert start(data).refused() == (
        "Error: Postgres runs as the user nobody (it refuses to run as root), who can't enter"
        f" {data}\n  Allow it with `chmod o+x {data}`, or choose another directory with --data\n"
    )
    data.chmod(0o701)
    assert start(data).ready().vote("a")


# Addresses


def test_links_say_the_address_that_other_machines_reach(start, data):
    host = resolve("0.0.0.0").in_links
    if host == "localhost":
        pytest.skip("this machine has no default route")
    up = start(data, HOST="0.0.0.0").ready()
    vote, result = re.findall(r"^voting: (?:vote|result): +(\S+)$", up.output, re.MULTILINE)
    assert vote.startswith(f"http://{host}:")
    assert f"voting: links say {host}, the address on the default route; VOTE_URL" in up.output
    assert httpx.get(vote).status_code == 200
    assert f'href="{vote}"' in httpx.get(result).text
    assert f'd="{qr_code(vote).path}"' in httpx.get(f"{result}/screen").text


def test_other_machines_reach_the_voting_page_and_not_the_admin_page(start, data):
    up = start(data, HOST="0.0.0.0").ready()
    [vote] = re.findall(r"^voting: vote: +(\S+)$", up.output, re.MULTILINE)
    for host in {"127.0.0.2", httpx.URL(vote).host} - {"localhost"}:  # both of this machine
        assert httpx.get(f"http://{host}:{port_of(vote)}").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{host}:{port_of(up.admin)}")
    assert httpx.get(up.admin).status_code == 303


def test_the_admin_page_opens_with_the_token_of_this_start_only(start, data):
    first = start(data).ready()
    token = httpx.URL(first.admin).params["token"]
    assert len(token) >= 32
    assert first.interrupt() == 0
    up = start(data).ready()
    with httpx.Client(follow_redirects=True) as operator:
        page = httpx.URL(up.admin)
        assert operator.get(page.copy_set_param("token", token)).status_code == 403
        assert operator.get(page.copy_with(query=None)).status_code == 403
        assert operator.get(page).status_code == 200
        assert operator.get(page.copy_with(query=None)).status_code == 200


def test_the_token_of_the_environment_is_used(start, data):
    up = start(data, ADMIN_TOKEN="which everybody can read here, & so on").ready()
    assert httpx.get(up.admin, follow_redirects=True).status_code == 200


def test_the_admin_page_needs_no_token_if_the_environment_says_so(start, data):
    up = start(data, ADMIN_TOKEN=" none ").ready()
    assert "token" not in up.output
    assert httpx.get(up.admin).status_code == 200


def test_a_terminal_shows_the_qr_code_of_an_address_that_others_reach(data):
    reader, terminal = pty.openpty()
    options = ["--data", str(data), *FREE_PORTS]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "voting", "up", *options],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        env={**ENVIRON, "VOTE_URL": "https://vote.example"},
    ) as process:
        try:
            os.close(terminal)
            output = b""
            while b"Ctrl-C" not in output:
                output += os.read(reader, 4096)
        finally:
            process.kill()
            os.close(reader)
    code = StringIO()
    segno.make("https://vote.example", error="l", micro=False).terminal(code, compact=True)
    shown = re.findall(r"\x1b\[97;40m(.+)\x1b\[0m", output.decode())
    assert shown == code.getvalue().splitlines()
    wait_for("its processes to end", lambda: not holders(data))


# Starts that fail


def test_a_second_start_on_the_same_directory_is_refused_and_the_first_continues(running):
    before, data = running.tally(), running.data
    second = voting("up", "--data", str(data), *FREE_PORTS)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        f"Error: {data} is in use by another `voting up` (process {running.process.pid})\n"
    )
    assert running.vote("a")
    wait_for("it to be counted", lambda: running.tally()["a"] == before["a"] + 1)


def test_a_port_on_which_a_program_listens_is_refused(start, data):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        output = start(data, "--result-port", port).refused()
    assert output == f"Error: port {port} is not available: Address already in use\n"


def test_a_port_of_another_voting_up_is_refused(running, start, data):
    port = port_of(running.address("vote"))
    output = start(data, "--vote-port", port).refused()
    assert output == f"Error: port {port} is not available: Address already in use\n"


def test_a_port_that_has_just_been_closed_is_used(start, data):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            other.accept()[0].close()  # this side first, so the system remembers the connection
            assert client.recv(1) == b""
    assert start(data, "--vote-port", str(port)).ready().vote("a")


def test_a_port_is_reserved_as_soon_as_another_voting_up_starts(start, data):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    first = start(data / "first", "--vote-port", port)
    wait_for("its guardian", lambda: first.children("cat"))
    output = start(data, "--vote-port", port).refused()
    assert output == f"Error: port {port} is not available: Address already in use\n"


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu.invalid", "203.0.113.7", "long" * 20])
def test_a_host_that_is_not_this_machine_is_named(start, data, host):
    output = start(data, HOST=host).refused()
    assert output.startswith(f"Error: HOST is '{host}', where this machine can't listen: ")
    assert output.endswith("\n  Unset HOST, or set it to an address of this machine\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("other", ["result", "admin"])
def test_two_pages_on_one_port_are_refused(start, data, host, other):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    output = start(data, "--vote-port", port, f"--{other}-port", port, HOST=host).refused()
    assert output == f"Error: port {port} is not available: Address already in use\n"


def test_a_number_that_is_not_a_port_is_wrong_use():
    refused = voting("up", "--vote-port", "99999")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Invalid value for '--vote-port': 99999 is not in the range" in refused.stderr


def test_a_data_directory_that_cannot_be_created_is_refused(start, data):
    (data / "file").touch()
    folder = data / "file" / "votes"
    assert start(folder).refused() == f"Error: {folder} can't be written: Not a directory\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_refused(start, data):
    data.chmod(0o500)
    output = start(data).refused()
    data.chmod(0o700)
    assert output == f"Error: {data} can't be written: Permission denied\n"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"OPTION_A": "Cats", "OPTION_B": "Cats"}, "OPTION_B: must differ from OPTION_A"),
        ({"ADMIN_TOKEN": "short"}, "ADMIN_TOKEN: "),
        ({"VOTE_URL": "nonsense"}, "VOTE_URL: must be an address like https://vote.example.com"),
    ],
)
def test_invalid_settings_are_named_and_stop_the_start(start, data, settings, problem):
    assert problem in start(data, **settings).refused()


@pytest.mark.parametrize("scale", ["nonsense", "worker", "worker=0", "worker=many", "cook=2"])
def test_an_invalid_scale_is_wrong_use(scale):
    refused = voting("up", "--scale", scale)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Invalid value for '--scale': must be like worker=3" in refused.stderr


def test_a_second_process_of_admin_is_wrong_use():
    refused = voting("up", "--scale", "admin=2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is one process of the admin role" in refused.stderr


# Processes that die


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("worker", "worker"),
        ("vote", "vote"),
        ("result", "result"),
        ("admin", "admin"),
        ("valkey-server", "Valkey"),
        ("postgres -D", "Postgres"),
    ],
)
def test_a_killed_process_is_restarted_and_no_vote_is_lost(running, part, name):
    before, length, voter = running.tally(), len(running.output), httpx.Cookies()
    assert running.vote("a")
    if part == "worker":  # its pending ballots would be counted only after 15 s
        wait_for("it to be counted", lambda: running.tally()["a"] == before["a"] + 1)
    [process] = running.children(part)
    process.kill()
    wait_for("the line", lambda: f"voting: {name} was killed by SIGKILL" in running.output[length:])
    wait_for("it to be back", lambda: running.children(part))
    wait_for("another vote to be recorded", lambda: running.vote("b", voter))
    after = {choice: votes + 1 for choice, votes in before.items()}
    wait_for("both to be counted", lambda: running.tally() == after)


def test_a_killed_voting_up_leaves_no_process_and_the_next_start_works(start, data):
    up = start(data).ready()
    assert up.vote("a")
    children = up.children()
    up.process.kill()
    up.process.wait(60)
    again = start(data)  # while some of them may still be dying
    wait_for("its processes to end", lambda: not alive(children))
    again.ready()
    wait_for("the vote to be counted", lambda: again.tally() == {"a": 1, "b": 0})


# Full disks


def fill(disk: Path) -> bool:
    """Fill a disk to the last byte."""
    with suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
        for size in (1 << 20, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))
    return True


def vote_until_full(up: VotingUp, disk: Path) -> tuple[int, httpx.Cookies]:
    """Vote as new voters until a vote is refused; return how many were recorded, and that voter."""
    recorded, voter = 0, httpx.Cookies()
    while fill(disk) and up.vote("a", voter):
        recorded, voter = recorded + 1, httpx.Cookies()
    return recorded, voter


def test_a_disk_that_is_too_small_is_refused(small_disk, start):
    disk = small_disk(20)
    output = start(disk).refused()
    assert output == f"Error: the disk of {disk} is full: 150 MB must be free\n"
    assert {path.name for path in disk.iterdir()} <= {"lock", "secret-key"}


def test_a_disk_without_a_byte_left_is_refused(small_disk, start):
    disk = small_disk(1)
    fill(disk)
    assert start(disk).refused() == f"Error: {disk} can't be written: No space left on device\n"


def test_no_vote_is_lost_when_the_disk_fills_up_and_voting_resumes_once_it_has_space(
    small_disk, start, used
):
    disk = copy(used, small_disk(100))
    up = start(disk).ready()
    recorded, voter = vote_until_full(up, disk)
    wait_for("a reason", lambda: "restarting (its disk is full)" in up.output)
    # One more may be recorded now: a restart cuts off what was half written, and a smaller write
    # fits.
    (disk / "filler").unlink()
    wait_for("the vote to be recorded", lambda: up.vote("a", voter))
    wait_for("all to be counted", lambda: up.tally() == {"a": recorded + 1, "b": 0})


def test_no_vote_is_lost_when_it_is_stopped_with_a_full_disk(small_disk, start, used):
    disk = copy(used, small_disk(100))
    up = start(disk).ready()
    recorded, voter = vote_until_full(up, disk)
    assert up.interrupt() == 0
    assert not holders(disk)
    output = start(disk).refused()
    assert "its disk is full" in output or "No space left on device" in output
    (disk / "filler").unlink()
    again = start(disk).ready()
    assert again.vote("a", voter)
    wait_for("all to be counted", lambda: again.tally() == {"a": recorded + 1, "b": 0})


# Processes and servers


def test_no_role_is_given_more_than_it_needs(running):
    def given(role: str) -> set[str]:
        names = {"DATABASE_URL", "REDIS_URL", "SECRET_KEYS", "ADMIN_TOKEN"}
        return running.children(role)[0].environ().keys() & names

    assert given("vote") == {"REDIS_URL", "SECRET_KEYS"}
    assert given("worker") == {"REDIS_URL", "DATABASE_URL"}
    assert given("result") == {"DATABASE_URL"}
    assert given("admin") == {"REDIS_URL", "DATABASE_URL", "ADMIN_TOKEN"}


def test_servers_of_the_environment_are_used_and_none_is_started(start, data, servers, database):
    given = {
        "DATABASE_URL": servers.database_url(database),
        "REDIS_URL": f"{servers.redis_url()}?db=1",
    }
    up = start(data / "new", **given).ready()
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
    assert not up.children("postgres -D")
    assert not up.children("valkey-server")
    assert not list(data.glob("new/postgres*"))


def test_only_the_server_that_is_not_set_is_started(start, data, servers, database):
    # Its own queue, as that of `data` belongs to the database there.
    up = start(data / "other", DATABASE_URL=servers.database_url(database)).ready()
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
    assert not up.children("postgres -D")
    assert up.children("valkey-server")


def test_as_many_processes_run_as_the_scale_says_and_all_of_them_serve(start, data):
    up = start(data, "--scale", "worker=3", "--scale", "vote=2").ready()
    assert len(up.children("worker")) == 3
    assert len(up.children("result")) == 1
    roles, port = up.children("vote"), port_of(up.address("vote"))
    assert len(roles) == 2
    clients = []

    def all_have_responded() -> bool:
        clients.append(httpx.Client())  # each keeps its connection
        assert clients[-1].get(up.address("vote")).status_code == 200
        return all(listening(process, port) for process in roles)

    wait_for("both to have responded", all_have_responded)
    for client in clients:
        client.close()


@pytest.mark.parametrize("name", ["long" * 30, "it's 100% odd, & so on"])
def test_a_data_directory_may_have_a_path_that_sockets_cannot_have(start, data, name):
    temporary = data / "temporary"
    temporary.mkdir()
    up = start(data / name, TMPDIR=str(temporary)).ready()
    assert len(list(temporary.iterdir())) == 1
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
    assert up.interrupt() == 0
    assert not list(temporary.iterdir())


def test_empty_variables_and_those_of_other_programs_have_no_effect(start, data):
    empty = dict.fromkeys(["DATABASE_URL", "REDIS_URL", "SECRET_KEYS", "HOST", "VOTE_URL"], "")
    other = {
        "PATH": "",
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nowhere",
        "PGUSER": "nobody",
    }
    up = start(data, **empty, **other, PGSSLMODE="require", LC_ALL="tr_TR.UTF-8").ready()
    assert up.vote("a")
    wait_for("the vote to be counted", lambda: up.tally() == {"a": 1, "b": 0})
