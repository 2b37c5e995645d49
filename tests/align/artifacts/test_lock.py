"""One run at a time in a folder; a dead one is never in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from align.artifacts.lock import hold
from align.errors import Interrupted, ResourceError

CHILD = """
import sys, time
from pathlib import Path
from align.artifacts.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds tmp_path/run."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_second_run_refuses_within_a_second_and_names_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(ResourceError) as caught, hold(tmp_path / "run"):
        pass
    assert time.monotonic() - started < 1
    assert f"in use by process {holder.pid} on {socket.gethostname()}, started 20" in str(caught.value)
    assert caught.value.exit_code == 4


def test_killing_the_holder_frees_it_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / "lock.json").exists()
    with hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock.json").read_text())["pid"] == os.getpid()


def test_a_stale_note_of_a_living_process_does_not_block(tmp_path: Path) -> None:
    """Process numbers are used again, and folders are copied to other machines: the note proves nothing."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("")
    (tmp_path / "run" / "lock.json").write_text(
        json.dumps({"pid": os.getppid(), "host": "elsewhere", "started": "x"})
    )
    with hold(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock.json").read_text())["pid"] == os.getpid()


def test_in_one_process_too(tmp_path: Path) -> None:
    with hold(tmp_path / "run"):
        with pytest.raises(ResourceError, match=f"process {os.getpid()} "), hold(tmp_path / "run"):
            pass
        with hold(tmp_path / "other"):
            pass
    with hold(tmp_path / "run"):
        pass


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "run"):
        raise ZeroDivisionError
    with hold(tmp_path / "run"):
        pass


def test_waiting_says_for_whom_and_goes_on(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []
    timer = threading.Timer(0.5, holder.kill)
    timer.start()
    with hold(tmp_path / "run", wait=True, note=said.append):
        pass
    timer.join()
    assert len(said) == 1
    assert said[0].startswith(f"waits for process {holder.pid} on ")


def test_waiting_ends_when_asked_to_stop(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(Interrupted) as caught, hold(tmp_path / "run", wait=True, stop=lambda: True):
        pass
    assert caught.value.exit_code == 75


def test_a_holder_that_removes_the_folder(tmp_path: Path) -> None:
    """The one who waits must not end up with a lock on a file that no longer has a name."""
    got = threading.Event()

    def wait_for_it() -> None:
        with hold(tmp_path / "run", wait=True):
            assert (tmp_path / "run" / "lock").exists()
            with pytest.raises(ResourceError), hold(tmp_path / "run"):
                pass
            got.set()

    with hold(tmp_path / "run"):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        time.sleep(0.3)
        shutil.rmtree(tmp_path / "run")
    thread.join(5)
    assert got.is_set()


def test_a_folder_that_is_removed_while_it_is_being_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, calls = FileLock.acquire, []

    def remove_first(self: FileLock, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / "run")
        return acquire(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(FileLock, "acquire", remove_first)
    with hold(tmp_path / "run", wait=True):
        assert (tmp_path / "run" / "lock").exists()
        with pytest.raises(ResourceError), hold(tmp_path / "run"):
            pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a file is where"), hold(tmp_path / "file" / "run"):
        pass
