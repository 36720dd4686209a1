"""The operations port of every role: liveness, readiness, metrics, version, OpenAPI document."""

import asyncio
import json
import platform
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import prometheus_client
import structlog
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException

from voting import __version__
from voting.telemetry import metrics
from voting.telemetry.logging import ChangeLogger

# Seconds, fewer than the timeout of the probes. Without a response from Redis or Postgres in time,
# the role is not ready.
READY_TIMEOUT = 0.9

log = structlog.get_logger(__name__)

_Request = Request[Any, Any, State]


def create_ops_app(role: str, commit: str, ready: Callable[[], Awaitable[bool]]) -> Litestar:
    """Return the application for OPS_PORT; `ready` returns whether the role can do its work now."""
    build = {"version": __version__, "commit": commit, "role": role}
    metrics.BUILD.labels(**build).set(1)
    state = {
        "build": build,
        "ready": ready,
        "readiness": ChangeLogger(log, "not ready"),
        "openapi": load_openapi(role),
    }
    return Litestar(
        [healthz, readyz, get_metrics, get_version, get_openapi],
        state=State(state, deep_copy=False),
        openapi_config=None,
        logging_config=None,
    )


def load_openapi(role: str) -> dict[str, Any] | None:
    """Return the OpenAPI 3.1 document of a role's public port, or None if it has no such port.

    The documents are written by hand. Litestar would generate a part of them only: it knows nothing
    of `@asgi` handlers, of error responses and of the headers of a response.
    """
    file = resources.files("voting.web").joinpath("openapi", f"{role}.json")
    if not file.is_file():
        return None
    document: dict[str, Any] = json.loads(file.read_text())
    document["info"]["version"] = __version__
    return document


@get("/healthz")
async def healthz() -> str:
    # Independent of Redis and Postgres: a restart of this process would not repair them.
    return "alive\n"


@get("/readyz")
async def readyz(request: _Request) -> Response[str]:
    state = request.app.state
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            is_ready = await state.ready()
    except TimeoutError:
        is_ready = False
    metrics.READY.labels(state.build["role"]).set(is_ready)
    state.readiness.log("ready" if is_ready else "not ready")
    return Response("ready\n") if is_ready else Response("not ready\n", status_code=503)


@get("/metrics", sync_to_thread=False)
def get_metrics(request: _Request) -> Response[bytes]:
    exposition = metrics.exposition(request.app.state.build["role"])
    return Response(exposition, media_type=prometheus_client.CONTENT_TYPE_LATEST)


@get("/version", sync_to_thread=False)
def get_version(request: _Request) -> dict[str, str]:
    return {**request.app.state.build, "python": platform.python_version()}


@get("/openapi.json", sync_to_thread=False)
def get_openapi(request: _Request) -> dict[str, Any]:
    document: dict[str, Any] | None = request.app.state.openapi
    if document is None:
        raise NotFoundException
    return document
