"""An event loop with virtual time, and processes in it that can be suspended and killed."""

import asyncio
import heapq
from collections import deque
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from itertools import count

NO_PROCESS = Context()
"""The context of callbacks that belong to no process: the network and the servers."""

PROCESS = ContextVar("PROCESS", default=None)


class State(Enum):
    RUNNING = "running"
    SUSPENDED = "suspended by SIGSTOP"
    KILLED = "killed by SIGKILL"
    EXITED = "exited"


class Process:
    """Tasks that are suspended and killed together.

    A killed process runs no more code, not even `finally`; requests that it has sent still arrive.
    """

    def __init__(self, loop, name):
        self.name = name
        self.state = State.RUNNING
        self.deferred = []
        self.on_exit = []
        self._loop = loop
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    def start(self, coroutine):
        return self._loop.create_task(coroutine, context=self._context.copy())

    def kill(self):
        if self.state in {State.RUNNING, State.SUSPENDED}:
            self.state = State.KILLED
            for callback in self.on_exit:
                callback()

    def suspend(self, seconds):
        if self.state is State.RUNNING:
            self.state = State.SUSPENDED
            self._loop.call_later(seconds, self.resume, context=NO_PROCESS)

    def resume(self):
        if self.state is State.SUSPENDED:
            self.state = State.RUNNING
            self.release()

    def release(self):
        self._loop.ready.extend(self.deferred)
        self.deferred.clear()


class VirtualLoop(asyncio.AbstractEventLoop):
    """Advances its time to the next timer when no callback is ready.

    Callbacks run in the order in which they were scheduled, so that a seed repeats its trace.
    """

    def __init__(self):
        self.ready = deque()
        self.errors = []
        # All tasks with their processes: the garbage collector would cancel tasks that hang.
        self.tasks = []
        self._timers = []
        self._order = count()
        self._now = 0.0

    def run(self, coroutine):
        task = self.create_task(coroutine)
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                self._turn()
        finally:
            asyncio._set_running_loop(None)
        return task.result()

    def _turn(self):
        if self.ready:
            handle = self.ready.popleft()
        else:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._now = max(self._now, when)
        if handle.cancelled():
            return
        process = handle._context.get(PROCESS)
        if process is not None and process.state in {State.SUSPENDED, State.KILLED}:
            process.deferred.append(handle)
        else:
            handle._run()

    async def cancel_all(self):
        """Cancel the remaining tasks, so that the garbage collector logs no pending task."""
        current = asyncio.current_task()
        for _ in range(100):
            left = [each for each in self.tasks if not each[0].done() and each[0] is not current]
            if not left:
                return
            for task, process in left:
                if process is not None:
                    process.state = State.EXITED
                    process.release()
                task.cancel()
            await asyncio.sleep(1)
        raise AssertionError("some tasks can't be cancelled")

    def time(self):
        return self._now

    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        self.tasks.append((task, process))
        return task

    def call_exception_handler(self, context):
        self.errors.append(context)

    def get_debug(self):
        return False

    def is_running(self):
        return True

    def is_closed(self):
        return False

    def _timer_handle_cancelled(self, handle):
        pass
