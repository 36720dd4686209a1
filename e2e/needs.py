"""Tells in one line what this machine lacks for a cluster of kind's; exit code 1 then.

Needs nothing itself: it is asked before anything is installed.
"""

import shutil
import subprocess
import sys

PROGRAMS = ("docker", "kind", "kubectl")
PATIENCE = 30  # seconds that the engine has to answer


def missing() -> str:
    """Tell what is missing; nothing where nothing is."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} can't be found"
    command = ["docker", "info", "--format", "{{.ServerVersion}}"]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"docker's engine does not answer in {PATIENCE} s"
    if asked.returncode != 0 or not asked.stdout.strip():
        return "docker is here, but no engine of it runs that this user may ask"
    return ""


if __name__ == "__main__":
    if lack := missing():
        print(f"the end-to-end tests need docker, kind and kubectl: {lack}")  # noqa: T201
        sys.exit(1)
