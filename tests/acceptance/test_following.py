"""Following a ballot through the roles: log lines at debug, and traces sent to a collector."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
import redis
from support.app import RoleProcess, post_vote
from support.collector import Collector, collecting
from support.database import fetch
from support.servers import Servers
from support.wait import DEADLINE, wait_for

from voting import __version__

from .test_roles import AWAY, KEY

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INCOMING = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


class App:
    """A vote role and a worker, with a queue and a database of their own."""

    def __init__(self, servers: Servers, database: str) -> None:
        self.queue = redis.Redis.from_url(servers.redis_url())
        self.queue.flushdb()
        redis_urls = {role: servers.redis_url(role) for role in ("vote", "worker")}
        database_urls = {
            role: servers.database_url(database, f"voting_{role}") for role in ("worker", "result")
        }
        self._urls = {"REDIS_URL": redis_urls, "DATABASE_URL": database_urls}
        self.roles: list[RoleProcess] = []

    def run(self, name: str, **environ: str) -> RoleProcess:
        urls = {key: each[name] for key, each in self._urls.items() if name in each}
        self.roles.append(RoleProcess(name, **{**urls, "SECRET_KEYS": KEY, **environ}))
        return self.roles[-1]

    def start(self, **environ: str) -> tuple[RoleProcess, RoleProcess]:
        worker = self.run("worker", **environ)
        return self.run("vote", **environ).ready(), worker.ready()

    def entries(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.queue.xrange("{voting}:ballots")]

    def counted(self) -> bool:
        [group] = self.queue.xinfo_groups("{voting}:ballots")
        return group["lag"] == group["pending"] == 0

    def close(self) -> None:
        for role in self.roles:
            role.close()
        self.queue.close()


@pytest.fixture
def app(servers, database) -> Iterator[App]:
    app = App(servers, database)
    yield app
    app.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def cast(
    vote: RoleProcess, choice: str = "a", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Vote as a new voter; return the status and the voter's cookie."""
    with vote.page() as client:
        response = post_vote(client, choice, headers)
        return response.status_code, client.cookies.get(f"voter-{vote.port}", "")


def lines(role: RoleProcess, event: str | None = None) -> list[dict[str, object]]:
    found = [json.loads(line) for line in role.output.splitlines()]
    return [line for line in found if event in {None, line["event"]}]


def logged(role: RoleProcess, event: str) -> Callable[[], object]:
    return lambda: lines(role, event)


def identities(cookie: str) -> list[str]:
    voter = UUID(cookie.partition(".")[0])
    return [cookie, str(voter), voter.hex]


# Lines


@pytest.mark.parametrize("name", ["vote", "result", "worker"])
def test_a_role_logs_its_start_and_stop_without_secrets(app, name):
    role = app.run(
        name,
        **{**AWAY, "DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/x"},
        COMMIT="c0ffee",
    ).alive()
    role.process.terminate()
    assert role.ended() == 0
    events = [line["event"] for line in lines(role) if line["level"] == "info"]
    assert events == ["starting", "stopping", "stopped"]
    [start] = lines(role, "starting")
    assert (start["role"], start["version"], start["commit"]) == (name, __version__, "c0ffee")
    if name != "vote":
        assert start["settings"]["database_url"] == "postgresql://***@127.0.0.1:1/x"
    assert "hidden" not in role.output
    assert KEY not in role.output


def test_a_role_that_fails_logs_the_reason_in_one_line(app, servers, database):
    asyncio.run(fetch(servers.database_url(database), "DELETE FROM poll"))
    worker = app.run("worker")
    assert worker.process.wait(DEADLINE) == 1
    [line] = [line for line in lines(worker) if line["level"] == "error"]
    assert line["event"] == "the role has failed"
    assert "NoResultFound" in line["exception"]


def test_at_debug_a_request_id_leads_from_the_vote_to_the_worker_and_to_no_voter(app):
    vote, worker = app.start(LOG_LEVEL="debug")
    status, cookie = cast(vote, "b")
    assert status == 303
    wait_for("the count", logged(worker, "ballot counted"))
    [accepted], [counted] = lines(vote, "ballot accepted"), lines(worker, "ballot counted")
    assert accepted["level"] == counted["level"] == "debug"
    assert accepted["request"] == counted["request"]
    assert accepted["ballot"] == counted["ballot"]
    fields = {"time", "level", "event", "logger", "role", "request", "ballot"}
    assert accepted.keys() == counted.keys() == fields
    for identity in identities(cookie):
        assert identity not in vote.output + worker.output
    assert "choice" not in vote.output + worker.output
    assert "127.0.0.1:" not in vote.output + worker.output


def test_the_request_id_is_the_trace_id_of_an_incoming_traceparent(app):
    vote, worker = app.start(LOG_LEVEL="debug")
    assert cast(vote, headers=INCOMING)[0] == 303
    assert cast(vote, headers={"traceparent": "nonsense"})[0] == 303
    wait_for("both counts", lambda: len(lines(worker, "ballot counted")) == 2)
    first, second = [line["request"] for line in lines(vote, "ballot accepted")]
    assert first == TRACE
    assert second not in {TRACE, ""}
    assert {line["request"] for line in lines(worker, "ballot counted")} == {first, second}


def test_without_debug_a_vote_is_not_logged_and_its_entry_has_no_trace(app):
    vote, worker = app.start()
    before = [len(lines(vote)), len(lines(worker))]
    assert cast(vote, headers=INCOMING)[0] == 303
    wait_for("the count", app.counted)
    assert [len(lines(vote)), len(lines(worker))] == before
    [entry] = app.entries()
    assert entry.keys() == {b"voter", b"choice"}


# Traces


def test_one_trace_leads_from_the_request_through_the_queue_to_the_worker(app, collector):
    vote, _ = app.start(**collector.environ)
    status, cookie = cast(vote, "a")
    assert status == 303
    names = ("POST /vote", "cast ballot", "count ballot", "count batch")
    wait_for("the spans", lambda: all(map(collector.named, names)))  # in any order
    [request], [sent], [counted], [batch] = map(collector.named, names)
    assert (request.kind, sent.kind, counted.kind) == (SERVER, PRODUCER, CONSUMER)
    assert (request.parent, sent.parent, counted.parent) == ("", request.id, sent.id)
    assert request.trace == sent.trace == counted.trace
    assert sent.attributes["messaging.message.id"] == counted.attributes["messaging.message.id"]
    assert counted.start <= batch.start <= batch.end <= counted.end
    assert batch.links == [(counted.trace, counted.id)]
    assert (batch.kind, batch.attributes["messaging.batch.message_count"]) == (CLIENT, 1)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/vote",
        "url.path": "/vote",
        "url.scheme": "http",
        "http.response.status_code": 303,
        "voting.recorded": "yes",
    }
    services = {"voting-vote", "voting-worker"}
    assert {span.service["service.name"] for span in collector.spans} == services
    assert {span.service["service.version"] for span in collector.spans} == {__version__}
    for identity in identities(cookie):
        assert identity.encode() not in collector.received
    assert b"choice" not in collector.received
    assert not any(span.failed for span in collector.spans)


def test_an_incoming_trace_is_continued(app, collector):
    vote, worker = app.start(**collector.environ, OTEL_SERVICE_NAME="mine", LOG_LEVEL="debug")
    assert cast(vote, headers=INCOMING)[0] == 303
    wait_for("the worker's span", lambda: collector.named("count ballot"))
    wait_for("the request's span", lambda: collector.named("POST /vote"))
    [request], [counted] = collector.named("POST /vote"), collector.named("count ballot")
    assert (request.trace, request.parent, counted.trace) == (TRACE, PARENT, TRACE)
    assert {span.service["service.name"] for span in collector.spans} == {"mine"}
    assert [line["request"] for line in lines(worker, "ballot counted")] == [TRACE]


def test_an_unsampled_request_has_no_spans(app, collector):
    vote, _ = app.start(**collector.environ, OTEL_TRACES_SAMPLER="parentbased_always_off")
    assert cast(vote)[0] == 303
    assert cast(vote, headers=INCOMING)[0] == 303  # its client samples it
    wait_for("the worker's span", lambda: collector.named("count ballot"))
    plain, traced = app.entries()
    assert plain.keys() == {b"voter", b"choice"}
    assert traced[b"trace"].startswith(f"00-{TRACE}-".encode())
    assert {span.trace for span in collector.named("count ballot")} == {TRACE}


def test_a_vote_that_fails_is_a_failed_span(app, collector):
    vote, worker = app.start(**collector.environ)
    worker.process.terminate()
    assert worker.ended() == 0
    app.queue.delete("{voting}:ballots")
    assert cast(vote)[0] == 503
    wait_for("the spans", lambda: len(collector.spans) == 2)
    [request], [sent] = collector.named("POST /vote"), collector.named("cast ballot")
    assert request.failed
    assert request.attributes["http.response.status_code"] == 503
    assert request.attributes["voting.recorded"] == "no"
    assert (sent.failed, sent.attributes["error.type"]) == (True, "NotRecorded")


def test_an_entry_that_cannot_be_counted_is_a_failed_span(app, collector):
    app.start(**collector.environ)
    fields = {"voter": b"short", "choice": b"a", "trace": INCOMING["traceparent"]}
    app.queue.xadd("{voting}:ballots", fields)
    wait_for("the span", lambda: collector.named("count ballot"))
    [span] = collector.named("count ballot")
    assert (span.failed, span.trace, span.parent) == (True, TRACE, PARENT)


def test_each_query_for_totals_is_a_span(app, collector):
    app.run("result", **collector.environ).ready()
    wait_for("a span", lambda: collector.named("totals"))
    assert collector.named("totals")[0].service["service.name"] == "voting-result"


def test_the_last_spans_are_sent_at_the_stop(app, collector):
    vote, _ = app.start(**{**collector.environ, "OTEL_BSP_SCHEDULE_DELAY": "3600000"})
    assert cast(vote)[0] == 303
    assert collector.spans == []
    vote.process.terminate()
    assert vote.ended() == 0
    assert [span.name for span in collector.named("POST /vote")] == ["POST /vote"]


@pytest.mark.parametrize("listens", [False, True], ids=["away", "hanging"])
def test_an_unreachable_collector_costs_no_vote_and_one_log_line(app, listens):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        environ = Collector(silent.getsockname()[1]).environ
        timeouts = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}
        vote, worker = app.start(**environ, **timeouts)
        away = "trace collector is down, spans are lost"
        for _ in range(3):
            assert cast(vote)[0] == 303
        wait_for("the lines", lambda: lines(vote, away) and lines(worker, away))
        for _ in range(5):
            assert cast(vote)[0] == 303
        wait_for("the count", app.counted)
        for role in (vote, worker):
            role.process.terminate()
            assert role.process.wait(10) == 0
            warnings = [line["event"] for line in lines(role) if line["level"] != "info"]
            assert warnings == [away]


def test_a_collector_that_hangs_does_not_delay_the_stop(app):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        vote, _ = app.start(**Collector(silent.getsockname()[1]).environ)
        assert cast(vote)[0] == 303
        held, _ = silent.accept()  # spans are on their way, for ten seconds if it was for the SDK
        with held:
            vote.process.terminate()
            assert vote.process.wait(8) == 0


def test_a_collector_that_is_up_again_receives_spans(app):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    environ = Collector(port).environ
    vote, _ = app.start(**environ, OTEL_EXPORTER_OTLP_TIMEOUT="0.2")
    assert cast(vote)[0] == 303
    away = "trace collector is down, spans are lost"
    wait_for("the line", logged(vote, away))
    with collecting(port) as collector:
        assert cast(vote)[0] == 303
        wait_for("the span", lambda: collector.named("POST /vote"))
        wait_for("the line", logged(vote, "trace collector is back"))


# The SDK


@pytest.mark.parametrize("name", ["vote", "result", "worker"])
def test_the_sdk_is_imported_only_if_a_collector_is_named(app, collector, name):
    plain = app.run(name, **AWAY, PYTHONPROFILEIMPORTTIME="1", LOG_LEVEL="debug")
    traced = app.run(name, **AWAY, PYTHONPROFILEIMPORTTIME="1", **collector.environ)
    for role in (plain, traced):
        role.alive()
    parts = ("opentelemetry.exporter", "opentelemetry.sdk.trace.export")
    assert [part in plain.output for part in parts] == [False, False]
    assert [part in traced.output for part in parts] == [True, True]


def test_without_the_sdk_a_role_logs_that_once_and_runs(app, collector, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['opentelemetry.exporter'] = None\n"
    )
    vote, _ = app.start(**collector.environ, PYTHONPATH=str(tmp_path))
    assert cast(vote)[0] == 303
    wait_for("the count", app.counted)
    assert [line["event"] for line in lines(vote) if line["level"] == "warning"] == [
        "no traces: the extra `tracing` is not installed"
    ]
    [entry] = app.entries()
    assert entry.keys() == {b"voter", b"choice"}
