"""The descriptions of the pages have what there is, and only the operations port has them."""

import re

import httpx
import pytest
from litestar import Litestar
from sqlalchemy.ext.asyncio import create_async_engine

from voting.queue.client import Queue, connect
from voting.queue.producer import Caster
from voting.queue.state import QueueState
from voting.roles.result import ResultRole
from voting.roles.vote import VoteRole
from voting.settings import ResultSettings, VoteSettings
from voting.web import ops
from voting.web import pages as web
from voting.web.openapi import describe


def vote():
    url = "redis://unused"
    queue = Queue(connect(url))
    settings = VoteSettings(redis_url=url, secret_keys="k" * 16)
    return VoteRole(Caster(queue), QueueState(queue), settings)


def result():
    url = "postgresql+asyncpg://unused"
    engine = create_async_engine(url)
    return ResultRole(engine, ResultSettings(database_url="postgresql://unused"), exports=engine)


ROLES = {"vote": vote, "result": result}


@pytest.fixture
def applications(monkeypatch):
    """Collect the applications that are made, as Litestar knows them."""
    found: list[Litestar] = []

    def make(*arguments, **options):
        found.append(Litestar(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(web, "Litestar", make)
    return found


@pytest.mark.parametrize("role", ROLES)
async def test_a_description_has_each_path_and_method(role, applications):
    ROLES[role]().create_app()
    [app] = applications
    there = {
        (re.sub(r"{(\w+):\w+}", r"{\1}", route.path), method.lower())
        for route in app.routes
        for method in route.methods - {"OPTIONS"}
    }
    paths = describe(role)["paths"]
    assert there == {(path, method) for path, methods in paths.items() for method in methods}


async def ask(app, path):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", ["/openapi.json", "/schema", "/schema/openapi.json", "/docs"])
async def test_the_public_port_has_no_description(role, path):
    assert (await ask(ROLES[role]().create_app(), path)).status_code == 404


async def test_the_operations_port_has_it():
    async def ready():
        return True

    for role in ROLES:
        answer = await ask(ops.create_ops_app(role, "c0ffee", ready), "/openapi.json")
        assert answer.json() == describe(role)
    missing = await ask(ops.create_ops_app("worker", "c0ffee", ready), "/openapi.json")
    assert missing.status_code == 404
