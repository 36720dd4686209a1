"""An event loop whose time is virtual, and processes in it that can be stopped and killed."""

import asyncio
import heapq
from collections import deque
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from itertools import count

WORLD = Context()
"""Where callbacks run that belong to no process: the network and the servers."""

PROCESS = ContextVar("PROCESS", default=None)


class State(Enum):
    RUNS = "runs"
    STOPPED = "has got SIGSTOP"
    DEAD = "has got SIGKILL"
    ENDED = "has come to its end"


class Process:
    """A part of the program that lives and dies as one: no line of it runs once it is killed.

    Neither does any `finally`. What it has sent by then is on its way.
    """

    def __init__(self, loop, name):
        self.name = name
        self.state = State.RUNS
        self.parked = []
        self.at_death = []
        self._loop = loop
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    def start(self, coroutine):
        return self._loop.create_task(coroutine, context=self._context.copy())

    def kill(self):
        if self.state in {State.RUNS, State.STOPPED}:
            self.state = State.DEAD
            for callback in self.at_death:
                callback()

    def stop(self, seconds):
        if self.state is State.RUNS:
            self.state = State.STOPPED
            self._loop.call_later(seconds, self.go_on, context=WORLD)

    def go_on(self):
        if self.state is State.STOPPED:
            self.state = State.RUNS
            self.release()

    def release(self):
        self._loop.ready.extend(self.parked)
        self.parked.clear()


class VirtualLoop(asyncio.AbstractEventLoop):
    """Where nothing is left to do now, it is at once the time of the next timer.

    Callbacks run in the order in which they were asked for, so that a run can be repeated.
    """

    def __init__(self):
        self.ready = deque()
        self.errors = []
        # All tasks with their processes: the garbage collector would end some that hang for ever.
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
        if process is not None and process.state in {State.STOPPED, State.DEAD}:
            process.parked.append(handle)
        else:
            handle._run()

    async def cancel_all(self):
        """End what is left, so that the garbage collector finds nothing to complain about."""
        me = asyncio.current_task()
        for _ in range(100):
            left = [each for each in self.tasks if not each[0].done() and each[0] is not me]
            if not left:
                return
            for task, process in left:
                if process is not None:
                    process.state = State.ENDED
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
