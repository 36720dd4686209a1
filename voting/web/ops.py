"""The operations port that every role has: liveness, readiness, metrics, version, OpenAPI."""

import asyncio
import platform
from collections.abc import Awaitable, Callable
from typing import Any

import prometheus_client
import structlog
from litestar import Litestar, Response, get
from litestar.exceptions import NotFoundException

from voting import __version__
from voting.telemetry import metrics
from voting.telemetry.logging import ChangeLogger
from voting.web.absent import absent
from voting.web.openapi import describe

# Shorter than a probe waits: a role whose server does not answer is not ready.
READY_SECONDS = 0.9

log = structlog.get_logger(__name__)


def create_ops_app(role: str, commit: str, ready: Callable[[], Awaitable[bool]]) -> Litestar:
    """Make the application for OPS_PORT; `ready` tells whether the role can do its work now."""
    changes = ChangeLogger(log, "not ready")
    running = {"version": __version__, "commit": commit, "role": role}

    @get("/healthz")
    async def healthz() -> str:
        # Asks nobody: a restart of this process would not mend a server that is away.
        return "alive\n"

    @get("/readyz")
    async def readyz() -> Response[str]:
        try:
            async with asyncio.timeout(READY_SECONDS):
                is_ready = await ready()
        except TimeoutError:
            is_ready = False
        metrics.READY.labels(role).set(is_ready)
        changes.log("ready" if is_ready else "not ready")
        return Response("ready\n") if is_ready else Response("not ready\n", status_code=503)

    @get("/metrics", sync_to_thread=False)
    def measured() -> Response[bytes]:
        return Response(metrics.exposition(role), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @get("/version", sync_to_thread=False)
    def version() -> dict[str, str]:
        return {**running, "python": platform.python_version()}

    @get("/openapi.json", sync_to_thread=False)
    def openapi() -> dict[str, Any]:
        described = describe(role)
        if described is None:
            raise NotFoundException
        return described

    metrics.BUILD.labels(**running).set(1)
    handlers = [healthz, readyz, measured, version, openapi]
    with absent("pydantic"):  # or it would be made ready for models in handlers: 3 MB
        return Litestar(handlers, openapi_config=None, logging_config=None)
