"""Workers that run in the process of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from support.wait import until
from voting.queue.client import Queue
from voting.roles.worker import Worker


@asynccontextmanager
async def working(
    queue: Queue, engine: AsyncEngine, number: int = 1, *, ready: bool = True, **options: Any
) -> AsyncIterator[Worker]:
    """Run workers, which have to stop at the end, and yield one, by default once it is ready."""
    workers = [Worker(queue, engine, consumer=uuid4().hex, **options) for _ in range(number)]
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        try:
            if ready:
                await until(workers[0].ready)
            yield workers[0]
        finally:
            for worker in workers:
                worker.stop()
