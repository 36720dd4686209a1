"""How soon a role is ready, and how large the image is."""

import json
import shutil
import subprocess
from argparse import Namespace

from bench.results import Results
from bench.stack import Stack
from voting.settings import Role

IMAGE = "docker.io/library/voting:dev"  # as `nox -s image` calls it


def size(stack: Stack, results: Results, options: Namespace) -> None:
    """Start each role, the worker first: vote is ready once the worker has created the stream."""
    for _ in range(options.repeats):
        for role in (Role.WORKER, Role.VOTE, Role.RESULT):
            with stack.role(role) as started:
                results.add(f"{role}, start to ready", started.seconds_to_ready, "s")
    if (bytes_ := _image()) is not None:
        results.add("image", bytes_ / 1e6, "MB")


def _image() -> int | None:
    """Return the bytes of the image; None if no builder has it."""
    for engine in filter(shutil.which, ("docker", "podman")):
        command = [engine, "image", "inspect", IMAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return int(json.loads(done.stdout)[0]["Size"])
    return None
