"""Runs seeds in parallel processes: `python -m simulation.parallel FIRST STEP END CONTROL`."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path

from simulation import world
from simulation.controls import CONTROLS


@dataclass
class Summary:
    """The results of all seeds. `failed` has the violations of each seed that failed."""

    failed: dict[int, list[str]] = field(default_factory=dict)
    seen: Counter = field(default_factory=Counter)
    acknowledgements: Counter = field(default_factory=Counter)
    digests: dict[int, str] = field(default_factory=dict)
    """The SHA-256 of each seed's trace."""
    steps: int = 0


def run_seeds(number, control="", processes=None):
    """Run the seeds below `number` on all cores, until one fails.

    Each child reads a pipe from this process, and exits when this process does.
    """
    processes = processes or os.cpu_count()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with contextlib.ExitStack() as stack:
        children = []
        for first in range(processes):
            arguments = (str(first), str(processes), str(number), control)
            child = subprocess.Popen(
                [sys.executable, "-m", "simulation.parallel", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
        return _gather(children)


def _gather(children):
    summary = Summary()
    # One reader for each child: a full pipe would block it.
    with ThreadPoolExecutor(len(children)) as readers:
        for found in chain.from_iterable(readers.map(partial(_read, children), children)):
            summary.steps += found["steps"]
            summary.digests[found["seed"]] = found["digest"]
            summary.seen.update({tuple(pair): number for pair, number in found["seen"]})
            summary.acknowledgements.update(found["acknowledgements"])
            if found["wrong"]:
                summary.failed[found["seed"]] = found["wrong"]
    assert summary.failed or not any(child.wait() for child in children), "a child has failed"
    return summary


def _read(children, child):
    """Read all results of a child. If a seed fails, stop the other children."""
    found = []
    for line in child.stdout:
        found.append(json.loads(line))
        if found[-1]["wrong"]:
            for other in children:
                other.stdin.close()
    return found


def main(first, step, end, control):
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    gc.freeze()
    with CONTROLS[control]() if control else contextlib.nullcontext():
        for seed in range(int(first), int(end), int(step)):
            run = world.run(seed)
            found = {
                "seed": seed,
                "wrong": run.wrong,
                "steps": len(run.trace),
                "seen": list(run.seen.items()),
                "acknowledgements": run.acknowledgements,
                "digest": sha256("\n".join(run.lines()).encode()).hexdigest(),
            }
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
            if run.wrong:
                return


def _exit_with_parent():
    os.read(sys.stdin.fileno(), 1)  # The parent never writes: this returns at the end of the pipe.
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
