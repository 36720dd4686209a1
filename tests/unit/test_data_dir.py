"""Where data is kept, for users that few machines have."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from voting.commands.cli import cli


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
