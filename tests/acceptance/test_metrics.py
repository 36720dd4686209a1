"""The metrics of each role after some votes."""

import math
import re

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.app import VotingUp
from support.wait import wait_for

from voting.settings import Role

VOTERS = 30

# Units that are not Prometheus' base units, and names of types.
# Source: https://prometheus.io/docs/practices/naming/
WRONG_UNITS = re.compile(
    r"_(milli|micro|nano)?(seconds?_ms|ms|millis|msec|minutes|hours|days|kb|mb|kilobytes|megabytes"
    r"|percent|percentage)(_|$)|_(milli|micro|nano)seconds"
)
TYPES = re.compile(r"_(gauge|counter|histogram|summary|info_gauge)(_|$)")


@pytest.fixture(scope="module")
def families(fresh):
    """Cast some votes; return each role's metric families by name once all are counted."""
    acknowledged = sum(fresh.vote("ab"[number % 2]) for number in range(VOTERS))
    with httpx.Client(base_url=fresh.address("vote")) as client:
        assert client.post("/vote", data={"round": 1, "choice": "a"}).status_code == 400
    wait_for("all to be counted", lambda: sum(fresh.tally().values()) == VOTERS)
    assert acknowledged == VOTERS

    def is_measured():
        names = ("voting_backlog_ballots", "voting_stream_entries")
        worker = scrape(fresh, "worker")
        return [value(worker, name) for name in names] == [0, VOTERS]

    wait_for("the gauges of the queue", is_measured)
    return {role: scrape(fresh, role) for role in Role}


def ops_port(role: psutil.Process) -> int:
    """Return the port of a role that is not its page's."""
    ports = {each.laddr.port for each in role.net_connections("tcp") if each.status == "LISTEN"}
    [found] = [port for port in ports if healthy(port)]
    return found


def healthy(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200


def scrape(up: VotingUp, role: str):
    [process] = up.children(role)
    response = httpx.get(f"http://127.0.0.1:{ops_port(process)}/metrics")
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def samples(role):
    return [sample for family in role.values() for sample in family.samples]


def value(role, name, **labels):
    [found] = [
        sample.value for sample in samples(role) if sample.name == name and sample.labels == labels
    ]
    return found


ROLES = pytest.mark.parametrize("role", list(Role))


@ROLES
def test_names_units_and_help_texts_follow_the_conventions(families, role):
    assert len(families[role]) > 12
    for name, family in families[role].items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not WRONG_UNITS.search(name), name
        assert not TYPES.search(name), name
        assert family.documentation, name
        for sample in family.samples:
            # As https://prometheus.io/docs/instrumenting/exposition_formats/ has it.
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
            suffix = sample.name.removeprefix(name)
            assert suffix in endings.get(family.type, ("",)), sample.name
        if name.startswith("voting_"):
            assert family.documentation.endswith(".")
            assert len(family.documentation) > 20


@ROLES
def test_no_sample_is_by_option(families, role):
    for sample in samples(families[role]):
        words = {sample.name, *sample.labels, *sample.labels.values()}
        parts = {part for word in words for part in re.split(r"[^a-zA-Z0-9]+", word.lower())}
        assert parts.isdisjoint({"a", "b", "choice", "option", "cats", "dogs"}), sample


@ROLES
def test_a_role_has_its_own_metrics_only(families, role):
    own = {"vote": "voting_ballots_accepted", "worker": "voting_ballots_counted"}
    own |= {"result": "voting_votes_counted", "admin": "voting_admin_changes"}
    assert {each for each, name in own.items() if name in families[role]} == {role}
    roles = {sample.labels["role"] for sample in samples(families[role]) if "role" in sample.labels}
    assert roles <= {role}
    assert "process_resident_memory_bytes" in families[role]


def test_the_numbers_add_up(families):
    vote, worker, result = families["vote"], families["worker"], families["result"]
    assert value(vote, "voting_ballots_accepted_total") == VOTERS
    assert value(vote, "voting_ballot_accept_duration_seconds_count") == VOTERS
    assert value(vote, "voting_ballots_refused_total", reason="no_cookie") == 1
    refused = [each.value for each in vote["voting_ballots_refused"].samples]
    assert sum(refused) == 1
    assert value(vote, "voting_ballots_in_flight") == 0
    assert value(worker, "voting_ballots_counted_total") == VOTERS
    assert value(worker, "voting_batch_ballots_sum") == VOTERS
    batches = value(worker, "voting_batch_ballots_count")
    assert 1 <= batches <= VOTERS
    assert value(worker, "voting_count_duration_seconds_count") == batches
    assert value(worker, "voting_accept_to_count_seconds_count") == batches
    assert value(worker, "voting_stream_entries") == VOTERS
    assert value(worker, "voting_backlog_age_seconds") == 0
    assert value(worker, "voting_dead_letter_entries") == 0
    assert value(worker, "voting_redis_fsync_always") == 1
    assert value(result, "voting_votes_counted") == VOTERS
    assert value(result, "voting_totals_queries_total", outcome="success") > 0
    assert value(result, "voting_totals_queries_total", outcome="failed") == 0


def test_every_value_is_set(families):
    for role in families.values():
        assert not [sample.name for sample in samples(role) if math.isnan(sample.value)]
