"""What redis.sh decides, with stand-ins for the programs of Valkey."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from .rendering import DEPLOY

COMPONENT = DEPLOY / "components/redis-replicated"

# Logs the command, and replies as the file `host port` of this round says. Without a file, the host
# does not reply.
CLI = """#!/bin/sh
echo "$@ as $REDISCLI_AUTH" >>"$STANDINS/commands"
while [ "$1" != -h ]; do shift; done
cat "$STANDINS/round-$(cat "$STANDINS/round")/$2 $4" 2>/dev/null
"""
SERVER = """#!/bin/sh
echo "$@"
"""
# Begins the next round, or ends the script after the last.
SLEEP = """#!/bin/sh
next=$(($(cat "$STANDINS/round") + 1))
[ -d "$STANDINS/round-$next" ] || exec kill $PPID
echo $next >"$STANDINS/round"
"""

Round = dict[str, str]


class Done(NamedTuple):
    output: str
    log: str
    ended: bool
    """Whether the script has ended by itself."""


class Pod:
    """The disk of a pod, and the stand-ins."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        for each in ("data", "users", "run", "bin"):
            (folder / each).mkdir()
        for each, text in (("valkey-cli", CLI), ("valkey-server", SERVER), ("sleep", SLEEP)):
            (folder / "bin" / each).write_text(text)
            (folder / "bin" / each).chmod(0o755)
        for each in ("users.acl", "replication.acl"):
            (folder / "users" / each).write_text(f"user of {each}\n")
        for each in ("replica", "sentinel"):
            (folder / "users" / f"{each}-password").write_text(f"password of {each}")

    @property
    def sentinel_conf(self) -> Path:
        return self._folder / "data/sentinel.conf"

    @property
    def commands(self) -> list[str]:
        return (self._folder / "commands").read_text().splitlines()

    def run_file(self, name: str) -> str:
        return (self._folder / "run" / name).read_text()

    def has_data(self) -> None:
        log = self._folder / "data/appendonlydir"
        log.mkdir()
        (log / "appendonly.aof.manifest").touch()

    def run(self, command: str, *rounds: Round) -> Done:
        for number, replies in enumerate(rounds or [{}]):
            folder = self._folder / f"round-{number}"
            folder.mkdir()
            for name, reply in replies.items():
                (folder / name).write_text(reply)
        (self._folder / "round").write_text("0")
        done = subprocess.run(
            ["sh", str(COMPONENT / "redis.sh"), command],
            env={
                "POD_NAME": self._name,
                "PATH": f"{self._folder}/bin:{os.defpath}",
                "STANDINS": str(self._folder),
                "CONFIG": str(COMPONENT),
                **{name.upper(): str(self._folder / name) for name in ("data", "users", "run")},
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Done(done.stdout, done.stderr, done.returncode == 0)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path, "redis-0")


def know(primary: str, *pods: int, epoch: int = 3, met: tuple[int, int] = (2, 2)) -> Round:
    """Return the replies of Sentinels that know a primary and have met other servers, Sentinels."""
    fields = {"name": "voting", "ip": primary, "port": 6379, "flags": "master"}
    fields |= {"num-slaves": met[0], "num-other-sentinels": met[1], "config-epoch": epoch}
    reply = "".join(f"{name}\n{value}\n" for name, value in fields.items())
    return {f"redis-{number} 26379": reply for number in pods}


FIRST = know("redis-0", 0, 1, 2, epoch=0, met=(0, 0))
PRIMARY = f"{COMPONENT}/replicated.conf --replica-announce-ip redis-0\n"
REPLICA = PRIMARY.replace("\n", " --replicaof redis-1 6379\n")


@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.parametrize("sentinels", [(0, 1, 2), (0, 1), (1, 2)])
def test_a_server_is_a_replica_of_another_primary(pod: Pod, has_data, sentinels):
    if has_data:
        pod.has_data()
    assert pod.run("server", know("redis-1", *sentinels)).output == REPLICA


def test_a_primary_with_its_data_starts_as_the_primary(pod: Pod):
    pod.has_data()
    assert pod.run("server", know("redis-0", 0, 2)).output == PRIMARY


def test_a_primary_that_has_lost_its_disk_waits_and_becomes_a_replica(pod: Pod):
    lost = know("redis-0", 0, 1, 2)
    chosen = know("redis-0", 0) | know("redis-1", 1, 2, epoch=4)
    done = pod.run("server", lost, lost, chosen)
    assert done.output == REPLICA
    assert done.log.splitlines() == [
        "redis.sh: the disk is empty: waiting until Sentinels choose another primary"
    ]


def test_a_primary_that_has_lost_its_disk_never_starts_as_long_as_no_other_is_chosen(pod: Pod):
    # The own Sentinel has lost its disk too, the others have met servers, or only Sentinels.
    own = know("redis-0", 0, epoch=0, met=(0, 0))
    for_others = [know("redis-0", 1, 2, epoch=0, met=met) for met in ((2, 2), (1, 0), (0, 1))]
    done = pod.run("server", *(own | others for others in for_others))
    assert (done.output, done.ended) == ("", False)


def test_the_first_of_all_starts_as_the_primary_and_the_others_as_its_replicas(
    tmp_path: Path, pod: Pod
):
    assert pod.run("server", FIRST).output == PRIMARY
    (tmp_path / "other").mkdir()
    other = Pod(tmp_path / "other", "redis-1").run("server", FIRST)
    assert other.output.endswith(" --replica-announce-ip redis-1 --replicaof redis-0 6379\n")


def test_a_first_start_is_told_from_a_lost_disk_by_all_three_sentinels(pod: Pod):
    without = {name: reply for name, reply in FIRST.items() if name != "redis-2 26379"}
    done = pod.run("server", without, {**without, **know("redis-0", 2, epoch=0)}, FIRST)
    assert done.output == PRIMARY
    assert "first start" in done.log


@pytest.mark.parametrize(
    "replies",
    [
        {},
        know("redis-1", 0),
        know("redis-1", 0) | know("redis-2", 1),
        # A failover that not all know yet.
        know("redis-1", 0, 1) | know("redis-2", 2, epoch=4),
    ],
)
def test_a_server_waits_for_a_majority_of_the_latest_epoch(pod: Pod, replies):
    pod.has_data()
    done = pod.run("server", replies, replies)
    assert (done.output, done.ended) == ("", False)
    assert done.log.count("waiting for two Sentinels") == 1


def test_a_server_has_the_users_and_the_password_of_replicas(pod: Pod):
    pod.run("server", FIRST)
    assert pod.run_file("users.acl") == "user of users.acl\nuser of replication.acl\n"
    expected = "masteruser replica\nmasterauth password of replica\n"
    assert pod.run_file("replica.conf") == expected


def test_passwords_are_on_no_command_line(pod: Pod):
    done = pod.run("server", FIRST)
    assert "password" not in done.output
    for command in pod.commands:
        assert command.endswith(" as password of sentinel")
        assert command.count("password") == 1


def lines_of(pod: Pod) -> list[str]:
    return pod.sentinel_conf.read_text().splitlines()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_sentinel_has_the_id_the_name_and_the_patience_of_its_machine(tmp_path: Path, number):
    pod = Pod(tmp_path, f"redis-{number}")
    assert pod.run("sentinel").output == f"{pod.sentinel_conf} --sentinel\n"
    lines = lines_of(pod)
    assert f"sentinel myid {number + 1:040x}" in lines
    assert f"sentinel announce-ip redis-{number}" in lines
    assert f"sentinel down-after-milliseconds voting {6500 + 500 * number}" in lines
    assert "sentinel monitor voting redis-0 6379 2" in lines
    assert set((COMPONENT / "sentinel.conf").read_text().splitlines()) < set(lines)
    assert pod.sentinel_conf.stat().st_mode & 0o077 == 0


def test_a_sentinel_keeps_what_it_has_learned_and_nothing_else(pod: Pod):
    learned = [
        "sentinel monitor voting redis-2 6379 2",
        "sentinel config-epoch voting 7",
        "sentinel leader-epoch voting 8",
        "sentinel current-epoch 8",
        "sentinel known-replica voting redis-0 6379",
        f'sentinel known-sentinel voting redis-1 26379 "{2:040x}"',
    ]
    old = ["sentinel auth-pass voting old", "sentinel down-after-milliseconds voting 1", "port 1"]
    pod.sentinel_conf.write_text("\n".join([*learned, *old]))
    pod.run("sentinel")
    lines = lines_of(pod)
    assert set(learned) < set(lines)
    assert not set(old) & set(lines)
    assert len([line for line in lines if line.startswith("sentinel monitor")]) == 1


def info(role: str, **changes: object) -> Round:
    fields = {"role": role, "master_link_status": "up", "master_sync_in_progress": 0, "loading": 0}
    fields |= {"aof_rewrite_in_progress": 0, "aof_rewrite_scheduled": 0} | changes
    reply = "".join(f"{name}:{value}\r\n" for name, value in fields.items())
    return {"127.0.0.1 6379": f"# Replication\r\n{reply}"}


@pytest.mark.parametrize(
    ("replies", "ready"),
    [
        (info("master"), True),
        (info("slave"), True),
        (info("slave", master_link_status="down"), False),
        (info("slave", master_sync_in_progress=1), False),
        (info("slave", loading=1), False),
        (info("slave", aof_rewrite_in_progress=1), False),
        (info("slave", aof_rewrite_scheduled=1), False),
        ({}, False),
    ],
)
def test_a_replica_is_ready_when_it_has_the_whole_queue_on_disk(pod: Pod, replies, ready):
    assert pod.run("ready", replies).ended is ready


def failovers(pod: Pod) -> list[str]:
    return [each for each in pod.commands if "failover" in each]


def test_a_primary_hands_over_and_waits_until_sentinels_know_the_next(pod: Pod):
    before = info("master") | know("redis-0", 0, 1, 2)
    demoted = info("slave") | know("redis-0", 0, 1, 2)
    after = info("slave") | know("redis-1", 0, 1, 2, epoch=4)
    done = pod.run("hand-over", before, before, demoted, after)
    assert (done.ended, done.log) == (True, "")
    # Again until it is no longer the primary: the first may have been refused, or given up.
    assert len(failovers(pod)) == 2
    assert "-h redis-0 -p 26379 sentinel failover voting coordinated" in failovers(pod)[0]


def test_a_hand_over_is_given_up_before_kubernetes_kills_the_pod(pod: Pod):
    before = info("master") | know("redis-0", 0, 1, 2)
    done = pod.run("hand-over", *[before] * 40)
    assert done.ended
    assert "no other server has become the primary" in done.log


@pytest.mark.parametrize("replies", [info("slave") | know("redis-1", 0, 1, 2), {}])
def test_a_replica_and_a_dead_server_hand_nothing_over(pod: Pod, replies):
    assert pod.run("hand-over", replies).ended
    assert failovers(pod) == []


def test_an_operator_may_ask_for_the_primary(pod: Pod):
    assert pod.run("primary", know("redis-2", 0, 1, 2)).output == "redis-2\n"
