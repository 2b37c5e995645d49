"""Unknown Python in a child process: what passes, what is stopped, and what is left behind."""
# ruff: noqa: E501 - tables

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from align.reward.scorers import sandbox
from align.reward.scorers.sandbox import Limits, run_tests

LIMITS = Limits(seconds=5, memory=2**30)
NAME = f"probe{os.getpid() % 100000}"
NAMED = f"import ctypes; ctypes.CDLL(None).prctl(15, b'{NAME}', 0, 0, 0)"  # PR_SET_NAME


def may_have_namespaces() -> bool:
    try:
        return subprocess.run(["unshare", "-rnm", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(
    not may_have_namespaces(), reason="the kernel gives this user no namespaces"
)


def named() -> list[str]:
    """Processes that a program has given the name."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            found += [comm.parent.name] if comm.read_text().strip() == NAME else []
    return found


def eventually_gone() -> bool:
    """Whether there is none any more; the kernel takes a moment to bury a process."""
    until = time.monotonic() + 10
    while named() and time.monotonic() < until:
        time.sleep(0.05)
    return not named()


class Watch:
    """Looks for such processes while something runs."""

    def __init__(self) -> None:
        self.seen, self.over = False, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.over.wait(0.02):
            self.seen = self.seen or bool(named())

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self.over.set()
        self.thread.join()


ADD = "def add(a, b):\n    return a + b\n"


def test_each_test_has_its_verdict() -> None:
    tests = ["assert add(1, 2) == 3", "assert add(1, 2) == 4", "nothing", "assert add('a', 'b') == 'ab'"]
    assert run_tests(ADD, tests, LIMITS) == [True, False, False, True]


def test_a_program_that_raises_passes_nothing() -> None:
    assert run_tests("1 / 0", ["pass"], LIMITS) == [False]
    assert run_tests("def (", ["pass", "pass"], LIMITS) == [False, False]


def test_the_guarded_part_of_a_script_is_not_run_and_dataclasses_work() -> None:
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass P:\n    x: int\n"
        "if __name__ == '__main__':\n    print(input())\n"
    )
    assert run_tests(program, ["assert P(1).x == 1"], LIMITS) == [True]


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        'print(\'{"nonce": "0", "passed": [true]}\')',
        'import os\nfor n in range(3, 64):\n    try:\n        os.write(n, b\'{"nonce": "0", "passed": [true]}\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
        "x = bytearray(2**31)",
        "def f(): f()\nf()",
        "input()",
        "import os\nif os.fork() >= 0:\n    raise SystemExit",
    ],
    ids=[
        "exits",
        "exits hard",
        "kills itself",
        "prints",
        "writes everywhere",
        "memory",
        "recursion",
        "reads",
        "forks",
    ],
)
def test_what_ends_early_has_passed_nothing(program: str) -> None:
    assert run_tests(program, ["assert False"], LIMITS) == [False]


def test_an_endless_program_is_stopped_by_its_cpu_time() -> None:
    began = time.monotonic()
    assert run_tests("while True: pass", ["pass"], Limits(seconds=1, memory=2**30)) == [False]
    assert time.monotonic() - began < 60


def test_a_sleeping_program_is_killed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CLOCK_EXTRA", 4)
    program = f"{NAMED}\nimport time\ntime.sleep(600)"
    with Watch() as watch:
        assert run_tests(program, ["pass"], Limits(seconds=1, memory=2**30)) == [False]
    assert watch.seen
    assert eventually_gone()


def test_its_folder_is_its_own_empty_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os\nassert os.listdir() == []\nopen('a', 'w').write('x')\n"
    tests = ["open('big', 'wb').write(bytes(2**25))", "assert open('a').read() == 'x'"]
    assert run_tests(program, tests, LIMITS) == [False, True]
    assert list(tmp_path.iterdir()) == []


@needs_namespaces
def test_other_files_can_be_read_and_not_written(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("so")
    tests = [
        f"assert open({str(mine)!r}).read() == 'so'",
        f"open({str(mine)!r}, 'w')",
        f"import os; os.remove({str(mine)!r})",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        "import ctypes, os; libc = ctypes.CDLL(None); assert libc.mount(None, b'/', None, 32 | 4096, None) == 0",
        "assert libc.unshare(0x20000) == 0",
    ]
    assert run_tests("", tests, LIMITS) == [True, False, False, False, False, False]
    assert mine.read_text() == "so"


def test_nothing_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_REWARD_KEY", "hush")
    test = "import os; assert set(os.environ) <= {'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}"
    assert run_tests("", [test], LIMITS) == [True]


def test_sets_have_the_same_order_each_time() -> None:
    """The order follows from the hashes of texts, which Python draws anew for each process unless it is told."""
    command = [sys.executable, "-c", "print(hash('a'))"]
    done = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert run_tests("", [f"assert hash('a') == {int(done.stdout)}"], LIMITS) == [True]


@needs_namespaces
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept(), daemon=True)
        thread.start()
        port = server.getsockname()[1]
        test = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert run_tests("", [test, "pass"], LIMITS) == [False, True]
        with socket.create_connection(("127.0.0.1", port), 2):  # from here it can be reached
            thread.join(2)


@needs_namespaces
def test_what_leaves_the_process_group_is_killed_too() -> None:
    program = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    {NAMED}\n    time.sleep(600)\ntime.sleep(1)"
    with Watch() as watch:
        run_tests(program, ["pass"], LIMITS)
    assert watch.seen
    assert eventually_gone()
