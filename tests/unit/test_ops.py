import asyncio

import pytest
from support.asgi import client_of

from voting import __version__
from voting.web import ops


def client(ready):
    return client_of(ops.create_ops_app("vote", "c0ffee", ready))


async def ask(path, ready):
    async with client(ready) as asking:
        return await asking.get(path)


async def yes():
    return True


async def no():
    return False


@pytest.mark.parametrize(("ready", "status"), [(yes, 200), (no, 503)])
async def test_readiness_is_that_of_the_role(ready, status):
    assert (await ask("/readyz", ready)).status_code == status
    assert f'voting_ready{{role="vote"}} {status == 200:.1f}' in (await ask("/metrics", ready)).text


async def test_a_change_of_readiness_is_logged_once(caplog):
    caplog.set_level("INFO", "voting.web.ops")
    said = iter([False, True, True, False, False, True])

    async def ready():
        return next(said)

    async with client(ready) as asking:
        for _ in range(6):
            await asking.get("/readyz")
    told = [each.message for each in caplog.records if each.name == "voting.web.ops"]
    assert told == ["ready", "not ready", "ready"]


async def test_a_role_whose_check_times_out_is_not_ready(monkeypatch):
    monkeypatch.setattr(ops, "READY_TIMEOUT", 0.01)
    assert (await ask("/readyz", asyncio.Event().wait)).status_code == 503


async def test_liveness_does_not_depend_on_readiness():
    async def fail():
        pytest.fail("called")

    assert (await ask("/healthz", fail)).status_code == 200


async def test_metrics_are_in_prometheus_format():
    answer = await ask("/metrics", yes)
    assert answer.headers["content-type"].startswith("text/plain")
    labels = f'commit="c0ffee",role="vote",version="{__version__}"'
    assert f"voting_build_info{{{labels}}} 1.0" in answer.text
