"""Postgres with what the pod of the deployment says."""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import asyncpg
import yaml
from support.servers import DEPLOY
from support.wait import wait_for

from voting.local import servers as embedded
from voting.local.data_dir import DataDir


def test_a_pod_ends_its_sessions_though_its_image_stops_with_sigterm(servers):
    *_, stateful = yaml.safe_load_all((DEPLOY / "base/postgres.yaml").read_text())
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    folder = servers.folders.data / uuid4().hex[:8]
    (folder / "run").mkdir(parents=True)
    folder.chmod(0o711)
    folders = DataDir(folder, folder / "run")
    programs = embedded.prepare_postgres(folders)
    program = replace(embedded.postgres(folders, programs), stop_signal=signal.SIGTERM)
    pid = folder / "postgres/postmaster.pid"
    with servers.running(program) as child, asyncio.Runner() as runner:
        session = runner.run(asyncpg.connect(folders.database_url()))
        subprocess.run(
            container["lifecycle"]["preStop"]["exec"]["command"],
            env={"PATH": f"{programs}:{os.defpath}", "PGDATA": str(pid.parent)},
            user=program.user,
            check=True,
        )
        with suppress(ProcessLookupError):  # it has ended
            os.kill(child.pid, signal.SIGTERM)
        wait_for("Postgres to stop", lambda: not pid.exists())
        session.terminate()
