"""Like `test_commit.py`, with a real SIGKILL at real system calls, and errors from the kernel's side."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from align.artifacts.manifest import verify

KILLED = 128 + 9
CALLS = ["mkdir", "openat", "write", "fsync", "rename", "flock", "chmod"]
CHILD = """
import sys
from pathlib import Path
from align.artifacts.commit import commit
from align.errors import ResourceError
folder = Path(sys.argv[1])
(folder / "marker").touch()
try:
    with commit(folder / "a", kind="policy", key="k" * 64) as out:
        (out / "x").write_bytes(b"first" * 1000)
        (out / "sub").mkdir()
        (out / "sub" / "y").write_bytes(b"second" * 1000)
except ResourceError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def traced(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the child under strace."""
    folder.mkdir()
    command = ["strace", "-qq", *options, sys.executable, "-c", CHILD, str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


pytestmark = [pytest.mark.fault, pytest.mark.skipif(not can_trace(), reason="strace cannot be used here")]


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """(name, how often it was called before) of each system call of a commit that changes something."""
    folder = tmp_path_factory.mktemp("trace")
    log = folder / "log"
    assert traced(folder / "run", f"--trace={','.join(CALLS)}", "-o", str(log)).returncode == 0
    counts: Counter[str] = Counter()
    found, begun = [], False
    for line in log.read_text().splitlines():
        name = line.partition("(")[0]
        counts[name] += 1
        begun = begun or "/run/marker" in line
        # What is done to handles is told apart from reading libraries by its name alone.
        if begun and (str(folder / "run") in line or name in ("write", "fsync", "flock")):
            found.append((name, counts[name]))
    return found[1:]


def test_there_are_such_calls(moments: list[tuple[str, int]]) -> None:
    names = Counter(name for name, _ in moments)
    assert names["rename"] == 1
    assert names["fsync"] == 6, "two files, the manifest, two folders and, after the rename, their parent"
    assert names["write"] >= 3
    assert names["mkdir"] == 3


def test_killed_at_every_system_call(tmp_path: Path, moments: list[tuple[str, int]]) -> None:
    for i, (name, count) in enumerate(moments):
        parent = tmp_path / str(i)
        run = traced(parent, "-o", "/dev/null", f"--inject={name}:signal=SIGKILL:when={count}")
        assert run.returncode in (KILLED, -9), f"{name} {count}: {run.stderr}"
        if (parent / "a").exists():
            verify(parent / "a")
            assert moments.index((name, count)) > [n for n, _ in moments].index("rename")
        again = subprocess.run([sys.executable, "-c", CHILD, str(parent)], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert (parent / "a" / "x").read_bytes() == b"first" * 1000
        assert (parent / "a" / "sub" / "y").read_bytes() == b"second" * 1000
        verify(parent / "a")
        assert sorted(p.name for p in parent.iterdir()) == ["a", "marker"]


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_error_from_any_call_that_writes_is_one_line(
    tmp_path: Path, moments: list[tuple[str, int]], error: str
) -> None:
    renamed = [name for name, _ in moments].index("rename")
    for i, (name, count) in enumerate(moments):
        if name not in ("write", "fsync", "rename"):
            continue
        parent = tmp_path / str(i)
        run = traced(parent, "-o", "/dev/null", f"--inject={name}:error={error}:when={count}")
        assert run.returncode == 4, f"{name} {count}: {run.stderr}"
        assert re.search(rf"\({error}, errno \d+\)", run.stdout)
        assert len(run.stdout.splitlines()) == 1
        left = ["a", "marker"] if i > renamed else ["marker"]
        assert sorted(p.name for p in parent.iterdir()) == left
