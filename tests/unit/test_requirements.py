"""Every package is locked to one version and its hashes, without the address of an index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_package_has_one_version_and_its_hashes(lock):
    text = lock.read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.!+]+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE)


def test_a_lock_is_installed_by_its_hashes():
    lines = "\n".join((ROOT / name).read_text() for name in ("noxfile.py", "Dockerfile"))
    uses = [line for line in lines.splitlines() if "install" in line and "requirements/" in line]
    assert len(uses) >= 4
    assert all("--require-hashes" in line for line in uses)
