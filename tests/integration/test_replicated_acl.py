"""The users of three servers and their Sentinels have the rights they need, no more."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from support.servers import DEPLOY, USERS, Servers, passwords
from support.wait import wait_for

from voting.local import servers as embedded
from voting.local.data_dir import DataDir
from voting.local.supervisor import Program, responds
from voting.poll.ballot import MIN_VERSION, Ballot, Choice
from voting.poll.lifecycle import Poll
from voting.queue.client import GROUP, Queue, connect
from voting.queue.consumer import Consumer
from voting.queue.producer import Caster
from voting.queue.state import QueueState

COMPONENT = DEPLOY / "components/redis-replicated"
SECRETS = DEPLOY / "overlays/kind-replicated/voting"
# That of every user.
[PASSWORD] = set(passwords().values()) - {"nopass"}
# For what the tests look at.
EVERYTHING = "user tests on >insecure ~* &* +@all\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(program: Program, port: int, *command: str) -> Program:
    async def ready() -> bool:
        return await responds(asyncio.open_connection("127.0.0.1", port), b"PING\r\n", b"+PONG\r\n")

    return replace(program, command=[program.command[0], *command], ready=ready)


class Machines:
    """Two servers and a Sentinel with the files of the deployment, at addresses of this machine."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.ports = [free_port() for _ in range(2)]
        self.sentinel_port = free_port()
        self._folder, self._servers = folder, servers
        (folder / "users.acl").write_text(
            USERS.read_text() + (SECRETS / "replication.acl").read_text() + EVERYTHING
        )
        (folder / "sentinel.acl").write_text((SECRETS / "sentinel.acl").read_text() + EVERYTHING)
        (folder / "replica.conf").write_text("masteruser replica\nmasterauth insecure\n")

    @contextmanager
    def server(self, number: int, *options: str) -> Iterator[None]:
        port = self.ports[number]
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        for source in (DEPLOY / "base/valkey.conf", COMPONENT / "replicated.conf"):
            (folder / source.name).write_text(self._localised(source, folder))
        program = embedded.valkey(DataDir(folder, folder))
        command = (str(folder / "replicated.conf"), "--port", str(port), *options)
        with self._servers.running(listening(program, port, *command)):
            yield

    @contextmanager
    def sentinel(self) -> Iterator[None]:
        file = self._folder / "sentinel.conf"
        given = self._localised(COMPONENT / "sentinel.conf", self._folder)
        lines = [
            given.replace("port 26379", f"port {self.sentinel_port}"),
            f"dir {self._folder}",
            f"sentinel monitor voting 127.0.0.1 {self.ports[0]} 1",
            "sentinel down-after-milliseconds voting 6500",
            *(f"sentinel {name}-user{of} sentinel" for name, of in LOGINS),
            *(f"sentinel {name}-pass{of} insecure" for name, of in LOGINS),
        ]
        file.write_text("\n".join(lines) + "\n")
        program = embedded.valkey(DataDir(self._folder, self._folder))
        command = (str(file), "--sentinel")
        with self._servers.running(listening(program, self.sentinel_port, *command)):
            yield

    def _localised(self, source: Path, folder: Path) -> str:
        places = {
            "/etc/valkey/valkey.conf": f"{folder}/valkey.conf",
            "/etc/valkey-users": str(self._folder),
            "/run/valkey": str(self._folder),
            "dir /data": f"dir {folder}/valkey",
        }
        text = source.read_text()
        for old, new in places.items():
            text = text.replace(old, new)
        return text

    @contextmanager
    def client(self, port: int, user: str) -> Iterator[Redis]:
        login = {"username": user, "password": PASSWORD}
        with Redis(host="127.0.0.1", port=port, decode_responses=True, **login) as client:
            yield client

    def primary(self) -> int:
        """Return the port of the server that the Sentinel names."""
        with self.client(self.sentinel_port, "sentinel") as sentinel:
            return int(sentinel.sentinel_master("voting")["port"])

    def hands_over(self) -> bool:
        """Whether the Sentinel starts a failover that the primary takes part in."""
        with self.client(self.sentinel_port, "sentinel") as sentinel, suppress(ResponseError):
            sentinel.execute_command("SENTINEL", "FAILOVER", "voting", "COORDINATED")
            return True
        return False

    def follows(self, port: int, primary: int) -> bool:
        """Whether the server is a replica of that primary, as a probe of its pod sees it."""
        try:
            with self.client(port, "sentinel") as client:
                state = client.info("replication")
        except RedisError:
            return False
        link = (state.get("master_port"), state.get("master_link_status"))
        return link == (primary, "up")

    def denials(self) -> list[str]:
        """Return the commands that users lacked a right for."""
        found = []
        for port in (*self.ports, self.sentinel_port):
            with self.client(port, "tests") as client:
                found += [f"{each['username']}: {each['object']}" for each in client.acl_log()]
        # redis-py, as which a test asks for the primary, says what it is: a Sentinel does not.
        return [each for each in found if each != "sentinel: client|setinfo"]


LOGINS = (("auth", " voting"), ("sentinel", ""))


@pytest.fixture(scope="module")
def machines(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("machines"), servers)
    with ExitStack() as stack:
        stack.enter_context(machines.server(0))
        replicaof = ("--replicaof", "127.0.0.1", str(machines.ports[0]))
        stack.enter_context(machines.server(1, *replicaof))
        stack.enter_context(machines.sentinel())
        wait_for("the replica", partial(machines.follows, machines.ports[1], machines.ports[0]))
        yield machines


def test_replicas_and_sentinels_may_do_all_that_a_failover_needs(servers: Servers, tmp_path: Path):
    machines = Machines(tmp_path, servers)
    first, second = machines.ports
    with machines.server(0), machines.sentinel():
        with machines.server(1, "--replicaof", "127.0.0.1", str(first)):
            wait_for("the Sentinel to see a replica that follows", machines.hands_over)
            wait_for("the hand-over", lambda: machines.primary() == second)
            wait_for("the old primary to follow", partial(machines.follows, first, second))
            assert machines.denials() == []
        wait_for("a failover", lambda: machines.primary() == first)
        # One that comes back as a primary is made a replica.
        with machines.server(1):
            wait_for("the lost server to follow", partial(machines.follows, second, first))
            assert machines.denials() == []


def test_roles_may_do_all_that_they_do(machines: Machines):
    async def act() -> None:
        clients = {
            user: connect(
                f"redis+sentinel://{user}:{PASSWORD}@127.0.0.1:{machines.sentinel_port}/voting"
            )
            for user in ("vote", "worker", "admin")
        }
        vote, worker, admin = (QueueState(Queue(each, replicas=1)) for each in clients.values())
        try:
            await worker.sync_poll(MIN_VERSION, Poll())
            await Caster(vote.queue).cast(Ballot(uuid4(), Choice.A), 1)
            consumer = Consumer(worker.queue, "one")
            assert len(await consumer.read(count=1, block=1)) == 1
            await admin.sync_poll(MIN_VERSION, Poll(revision=1))
        finally:
            for each in clients.values():
                await each.aclose()

    asyncio.run(act())
    assert machines.denials() == []


def test_the_autoscaler_may_ask_a_replica_for_the_lag(machines: Machines):
    stream = "{voting}:ballots"
    with machines.client(machines.ports[0], "tests") as primary:
        primary.delete(stream)
        primary.xgroup_create(stream, GROUP, "0", mkstream=True)
        for _ in range(5):
            primary.xadd(stream, {"a": "b"})
        primary.xreadgroup(GROUP, "one", {stream: ">"}, count=2)
        assert primary.wait(1, 10_000) == 1
        with machines.client(machines.ports[1], "keda") as replica:
            [group] = replica.xinfo_groups(stream)
        assert group["lag"] == 3
        primary.delete(stream)


ROLES = ("vote", "worker", "admin")


@pytest.mark.parametrize(
    ("place", "user", "command"),
    [
        *(
            ("sentinel", user, command)
            for user in ROLES
            for command in (
                *("SENTINEL FAILOVER voting", "SENTINEL REMOVE voting", "SENTINEL RESET voting"),
                *("SENTINEL SET voting quorum 1", "SENTINEL MONITOR other 127.0.0.1 1 1"),
                *("SENTINEL REPLICAS voting", "SENTINEL CONFIG GET *", "SENTINEL FLUSHCONFIG"),
                *("INFO", "ACL LIST", "SHUTDOWN", "CLIENT LIST", "PUBLISH __sentinel__:hello a"),
            )
        ),
        *(
            ("sentinel", "sentinel", command)
            for command in (
                *("SENTINEL REMOVE voting", "SENTINEL SET voting quorum 1", "ACL LIST"),
                *("SENTINEL CONFIG GET *", "SHUTDOWN", "PUBLISH other a"),
            )
        ),
        *(
            ("server", user, command)
            for user in ("replica", "sentinel")
            for command in (
                *("FLUSHALL", "CONFIG GET dir", "CONFIG SET dir /", "KEYS *", "ACL LIST", "DBSIZE"),
                *("SHUTDOWN NOSAVE", "MONITOR", "XRANGE {voting}:ballots - +", "EVAL 1 0"),
                *("XADD {voting}:ballots * a b", "CLIENT LIST"),
            )
        ),
        *(
            ("server", "replica", command)
            for command in ("INFO", "REPLICAOF NO ONE", "FAILOVER", "PUBLISH __sentinel__:hello a")
        ),
        ("server", "sentinel", "PUBLISH other a"),
        ("server", "sentinel", "PSYNC ? -1"),
        *(
            ("server", user, command)
            for user in (*ROLES, "keda")
            for command in ("PSYNC ? -1", "REPLICAOF NO ONE", "FAILOVER", "CLIENT PAUSE 1")
        ),
    ],
)
def test_no_user_may_do_more(machines: Machines, place, user, command):
    port = machines.sentinel_port if place == "sentinel" else machines.ports[0]
    with machines.client(port, user) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())
    with machines.client(port, "tests") as tests:
        tests.acl_log_reset()


@pytest.mark.parametrize("user", ROLES)
@pytest.mark.parametrize("command", ["MASTERS", "MASTER voting", "GET-MASTER-ADDR-BY-NAME voting"])
def test_roles_may_ask_a_sentinel_for_the_primary(machines: Machines, user, command):
    with machines.client(machines.sentinel_port, user) as client:
        assert client.execute_command("SENTINEL", *command.split())


@pytest.mark.parametrize("user", ["keda", "replica"])
def test_others_have_no_account_on_a_sentinel(machines: Machines, user):
    with (
        machines.client(machines.sentinel_port, user) as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()
    with machines.client(machines.sentinel_port, "tests") as tests:
        tests.acl_log_reset()


def test_an_unauthenticated_client_of_a_sentinel_may_only_ping(machines: Machines):
    with Redis(host="127.0.0.1", port=machines.sentinel_port) as client:
        assert client.ping()
        for command in ("INFO", "SENTINEL MASTERS", "ACL WHOAMI"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
    with machines.client(machines.sentinel_port, "tests") as tests:
        tests.acl_log_reset()
