"""Where data and sockets are kept, for paths and users that few machines have."""

import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from voting.commands.cli import cli
from voting.local import data_dir
from voting.local.data_dir import socket_dir
from voting.local.supervisor import StartError


@pytest.fixture(params=["long" * 30, "it's odd"])
def unfit(request, tmp_path, monkeypatch):
    """A folder that can't have sockets, and is the one for temporary files as well."""
    folder = tmp_path / request.param
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_sockets_are_below_tmp_if_neither_data_nor_tmpdir_can_have_them(unfit):
    run = socket_dir(unfit)
    assert run.parent == Path("/tmp")
    run.rmdir()


def test_if_no_folder_can_have_sockets_it_is_said(unfit, monkeypatch):
    monkeypatch.setattr(data_dir, "_MAX_SOCKET_DIR", 10)
    with pytest.raises(StartError, match="can't have sockets, nor can TMPDIR or /tmp: use a short"):
        socket_dir(unfit)


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("up", 1, "Error: this user has no home directory: set HOME, or use --data\n"),
        ("status", 2, "DATABASE_URL: is required\n  REDIS_URL: is required\n"),
    ],
)
def test_a_user_without_a_home_directory_is_told(monkeypatch, command, code, message):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr(Path, "home", home)
    for name in ("XDG_DATA_HOME", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    refused = CliRunner().invoke(cli, [command])
    assert (refused.exit_code, refused.stdout) == (code, "")
    assert refused.stderr.endswith(message)
