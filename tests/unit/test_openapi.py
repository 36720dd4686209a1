"""The OpenAPI documents match the applications, and only the operations port serves them."""

import re

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support.asgi import client_of

from voting.queue.client import Queue, connect
from voting.queue.producer import Caster
from voting.queue.state import QueueState
from voting.roles.result import ResultRole
from voting.roles.vote import VoteRole
from voting.settings import ResultSettings, VoteSettings
from voting.web import ops


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


@pytest.mark.parametrize("role", ROLES)
async def test_a_document_has_each_path_and_method(role):
    made = ROLES[role]()
    app = made.create_app()
    pages = made.create_pages() if role == "vote" else app
    served = set()
    for route in pages.routes:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
        served |= {(path, method.lower()) for method in await methods(app, route)}
    paths = ops.load_openapi(role)["paths"]
    assert served == {
        (path, method) for path in paths for method in resolve(role, paths[path]) - {"$ref"}
    }


def resolve(role, item):
    """Return the methods of a path item, which may be a reference."""
    found = ops.load_openapi(role)
    for key in item.get("$ref", "#").split("/")[1:]:
        found = found[key]
    return set(found if "$ref" in item else item)


async def methods(app, route):
    """Return the methods of a route, except OPTIONS; an `@asgi` route is asked for each."""
    if route.methods:
        return set(route.methods) - {"OPTIONS"}
    async with client_of(app) as client:
        statuses = {
            method: (await client.request(method, route.path)).status_code
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
        }
    return {method for method, status in statuses.items() if status != 405}


async def ask(app, path):
    async with client_of(app) as client:
        return await client.get(path)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", ["/openapi.json", "/schema", "/schema/openapi.json", "/docs"])
async def test_the_public_port_does_not_serve_the_document(role, path):
    assert (await ask(ROLES[role]().create_app(), path)).status_code == 404


async def test_the_operations_port_serves_the_document():
    async def ready():
        return True

    for role in ROLES:
        answer = await ask(ops.create_ops_app(role, "c0ffee", ready), "/openapi.json")
        assert answer.json() == ops.load_openapi(role)
    missing = await ask(ops.create_ops_app("worker", "c0ffee", ready), "/openapi.json")
    assert missing.status_code == 404
