"""Runs seeds in parallel processes."""

import gc
import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
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


def start_processes(number=None):
    """Start a process for each core, or so many."""
    # Spawned processes have hash seeds of their own: traces must not depend on them.
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(number, spawn, initializer=_begin)


def run_seeds(processes, seeds, control=None):
    """Run seeds, until one fails."""
    summary = Summary()
    # With a mistake the first seeds fail, and what was sent to a process is run to its end.
    chunk = 1 if control else 10
    # The end of the loop cancels the other seeds.
    for run, steps, digest in processes.map(partial(_run, control), seeds, chunksize=chunk):
        summary.steps += steps
        summary.digests[run.seed] = digest
        summary.seen.update(run.seen)
        summary.acknowledgements.update(run.acknowledgements)
        if run.wrong:
            summary.failed[run.seed] = run.wrong
            break
    return summary


def _begin():
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    gc.freeze()


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _run(control, seed):
    with CONTROLS[control]() if control else nullcontext():
        run = world.run(seed)
    digest = sha256("\n".join(run.lines()).encode()).hexdigest()
    return replace(run, trace=[]), len(run.trace), digest
