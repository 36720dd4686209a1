"""`voting up --replicated`: a queue on three machines, of which one is lost with its disk."""

import json
import stat

import httpx
import pytest
from support.app import alive
from support.replicated import client, destroy, primary
from support.wait import run_in_thread, wait_for

from voting.local.replication import Machines

from .test_commands import voting


class Queue:
    """The three servers of a `voting up`, past the app."""

    def __init__(self, up):
        self.up = up
        self.machines = Machines(up.data, **json.loads((up.data / "machines.json").read_text()))

    def primary(self):
        return run_in_thread(primary(self.machines))

    def ask(self, number, *command):
        async def run():
            async with client(self.machines, number) as redis:
                return await redis.execute_command(*command)

        return run_in_thread(run())

    def processes(self, number):
        ports = [self.machines.ports[number], self.machines.ports[number + 3]]
        return [
            each
            for each in self.up.children("valkey-server")
            if {connection.laddr.port for connection in each.net_connections("tcp")} & {*ports}
        ]

    def lose(self, number):
        self.up.process.suspend()  # it would start them again while their files are deleted
        destroy(self.machines, number, self.processes(number))
        self.up.process.resume()

    def is_back(self, number):
        """Whether a server is a replica that has what the primary has."""
        with_ballots = self.ask(number, "XLEN", "{voting}:ballots")
        info = self.ask(number, "INFO", "replication")
        return with_ballots and info["role"] == "slave" and info["master_link_status"] == "up"


def test_no_vote_is_lost_with_the_machine_of_the_primary(start, data):
    up = start(data / "new", "--replicated").ready()
    queue, voter = Queue(up), httpx.Cookies()
    assert queue.primary() == 0
    assert up.vote("a")
    assert queue.ask(0, "WAITAOF", 1, 1, 0)[1] >= 1

    queue.lose(0)
    wait_for("another primary", lambda: queue.primary() not in {0, None})
    wait_for("a vote to be recorded", lambda: up.vote("b", voter))
    wait_for("both to be counted", lambda: up.tally() == {"a": 1, "b": 1})
    wait_for("the lost one to be back", lambda: queue.is_back(0))

    last = queue.primary()
    children = up.children()
    assert up.interrupt() == 0
    assert not alive(children)
    assert "did not stop" not in up.output
    again = start(data / "new", "--replicated").ready()
    assert Queue(again).primary() == last
    assert again.vote("a")
    wait_for("all to be counted", lambda: again.tally() == {"a": 2, "b": 1})
    assert voting("audit", "--data", str(again.data)).returncode == 0


def test_the_password_of_the_servers_stays_in_private_files(start, data):
    up = start(data / "new", "--replicated").ready()
    password = Queue(up).machines.password
    servers = up.children("valkey-server")
    assert len(servers) == 6
    assert not [each for each in up.children() if password in " ".join(each.cmdline())]
    private = [
        path
        for folder in (up.data, *up.data.glob("machine-*"))
        for path in folder.glob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert len(private) == 8  # machines.json, servers.env, and one for each server and Sentinel
    assert {stat.filemode(path.stat().st_mode) for path in private} == {"-rw-------"}
    for server in servers:
        hosts = {each.laddr.ip for each in server.net_connections("tcp")}
        assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize("replicated", [False, True])
def test_votes_that_were_queued_otherwise_are_not_forgotten(start, data, replicated):
    options = ["--replicated"] if replicated else []
    if not replicated:
        (data / "valkey").rename(data / "machine-0")
    assert start(data, *options).refused() == (
        f"Error: the votes in {data} were queued {'without' if replicated else 'with'}"
        " --replicated: start so again, or choose another directory with --data\n"
    )


def test_servers_of_the_environment_are_not_replicated():
    refused = voting("up", "--replicated", REDIS_URL="redis://127.0.0.1:1/0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--replicated starts the servers of the queue: unset REDIS_URL" in refused.stderr
