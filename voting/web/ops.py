"""The operations port of every role: liveness, readiness, metrics, version, OpenAPI document."""

import asyncio
import json
import platform
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import prometheus_client
import structlog
from litestar import Litestar, Response, get

from voting import __version__
from voting.settings import SettingsError
from voting.telemetry import metrics
from voting.telemetry.logging import ChangeLogger

# Seconds, fewer than the timeout of the probes. Without a response from Redis or Postgres in time,
# the role is not ready.
READY_TIMEOUT = 0.9

log = structlog.get_logger(__name__)


def create_ops_app(role: str, commit: str, ready: Callable[[], Awaitable[bool]]) -> Litestar:
    """Return the application for OPS_PORT; `ready` returns whether the role can do its work now."""
    build = {"version": __version__, "commit": commit, "role": role}
    metrics.BUILD.labels(**build).set(1)
    readiness = ChangeLogger(log, "not ready")

    @get("/healthz")
    async def healthz() -> str:
        # Independent of Redis and Postgres: a restart of this process would not repair them.
        return "alive\n"

    @get("/readyz")
    async def readyz() -> Response[str]:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                is_ready = await ready()
        except (TimeoutError, SettingsError):
            is_ready = False
        state = "ready" if is_ready else "not ready"
        metrics.READY.labels(role).set(is_ready)
        readiness.log(state)
        return Response(f"{state}\n", status_code=200 if is_ready else 503)

    @get("/metrics")
    async def get_metrics() -> Response[bytes]:
        media_type = prometheus_client.CONTENT_TYPE_LATEST
        return Response(metrics.exposition(role), media_type=media_type)

    @get("/version")
    async def get_version() -> dict[str, str]:
        return {**build, "python": platform.python_version()}

    handlers = [healthz, readyz, get_metrics, get_version]
    if (openapi := load_openapi(role)) is not None:

        @get("/openapi.json")
        async def get_openapi() -> dict[str, Any]:
            return openapi

        handlers.append(get_openapi)
    return Litestar(handlers, openapi_config=None, logging_config=None)


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
