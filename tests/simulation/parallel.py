"""Runs seeds in parallel processes."""

import contextlib
import gc
import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256

from simulation import world
from simulation.controls import CONTROLS


@dataclass
class Summary:
    """The results of all seeds. `failed` has the violations of the first seed that failed."""

    failed: dict[int, list[str]] = field(default_factory=dict)
    seen: Counter = field(default_factory=Counter)
    acknowledgements: Counter = field(default_factory=Counter)
    digests: dict[int, str] = field(default_factory=dict)
    """The SHA-256 of each seed's trace."""
    steps: int = 0


def run_seeds(seeds, control=None, processes=None):
    """Run seeds on all cores, until one fails."""
    processes = processes or os.cpu_count()
    summary = Summary()
    # Spawned processes have hash seeds of their own: traces must not depend on them.
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(control,)
    ) as pool:
        # With a mistake the first seeds fail, and what was sent to a process is run to its end.
        chunk = 1 if control else 10
        for run, steps, digest in pool.map(_run, seeds, chunksize=chunk):
            summary.steps += steps
            summary.digests[run.seed] = digest
            summary.seen.update(run.seen)
            summary.acknowledgements.update(run.acknowledgements)
            if run.wrong:
                summary.failed[run.seed] = run.wrong
                pool.shutdown(cancel_futures=True)
                break
    return summary


_mistake = contextlib.ExitStack()  # in this process, until it ends


def _begin(control):
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    gc.freeze()
    if control:
        _mistake.enter_context(CONTROLS[control]())


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(seed):
    run = world.run(seed)
    digest = sha256("\n".join(run.lines()).encode()).hexdigest()
    return replace(run, trace=[]), len(run.trace), digest
