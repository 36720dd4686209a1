"""Runs commands."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


class CommandError(AssertionError):
    """A command failed; the message has its output."""


def run(*command: str, timeout: float = 60, env: Mapping[str, str] = os.environ) -> str:
    """Run a command in the project's folder, and return its output. Raises CommandError."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(command)}\nis not done after {timeout:g} s") from None
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout
