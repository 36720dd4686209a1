"""Prints what this machine lacks for a kind cluster, and exits with 1 if it lacks something.

Uses only the standard library: nox runs it before it installs packages.
"""

import shutil
import subprocess
import sys

PROGRAMS = ("docker", "kind", "kubectl")
TIMEOUT = 30  # seconds for the engine's response


def missing() -> str:
    """Describe what is missing, or return an empty string."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} can't be found"
    command = ["docker", "info", "--format", "{{.ServerVersion}}"]
    try:
        info = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"docker's engine does not respond within {TIMEOUT} s"
    if info.returncode != 0 or not info.stdout.strip():
        return "docker is installed, but no engine responds to this user"
    return ""


if __name__ == "__main__":
    if lack := missing():
        print(f"the end-to-end tests need docker, kind and kubectl: {lack}")  # noqa: T201
        sys.exit(1)
