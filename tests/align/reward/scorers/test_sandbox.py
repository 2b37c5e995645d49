"""Unknown Python in a child process: what passes, what is stopped, and what is left behind."""
# ruff: noqa: E501 - tables

from __future__ import annotations

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


def test_a_sleeping_program_is_killed_by_the_clock_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "CLOCK_EXTRA", 1)
    mark = tmp_path / "mark"
    mark.write_text("")
    program = (
        f"import time\nfor _ in range(600):\n    open({str(mark)!r}, 'a').write('.')\n    time.sleep(0.05)\n"
    )
    assert run_tests(program, ["pass"], Limits(seconds=1, memory=2**30)) == [False]
    size = mark.stat().st_size
    assert size > 0
    time.sleep(0.5)
    assert mark.stat().st_size == size


def test_files_are_limited_and_the_folder_is_empty_and_removed(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = f"import os\nopen({str(seen)!r}, 'w').write(os.getcwd())\nassert os.listdir() == []\nopen('a', 'w').write('x')\n"
    tests = ["open('big', 'wb').write(bytes(2**25))", "assert open('a').read() == 'x'"]
    assert run_tests(program, tests, LIMITS) == [False, True]
    folder = Path(seen.read_text())
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()


def test_nothing_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_REWARD_KEY", "hush")
    test = "import os; assert set(os.environ) <= {'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}"
    assert run_tests("", [test], LIMITS) == [True]


def test_sets_have_the_same_order_each_time() -> None:
    """The order follows from the hashes of texts, which Python draws anew for each process unless it is told."""
    command = [sys.executable, "-c", "print(hash('a'))"]
    done = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True)
    assert run_tests("", [f"assert hash('a') == {int(done.stdout)}"], LIMITS) == [True]


def may_have_namespaces() -> bool:
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not may_have_namespaces(), reason="the kernel gives this user no namespaces")
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept(), daemon=True)
        thread.start()
        port = server.getsockname()[1]
        test = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert run_tests("", [test, "pass"], LIMITS) == [False, True]
        with socket.create_connection(("127.0.0.1", port), 2):  # from here it can be reached
            thread.join(2)


@pytest.mark.skipif(not may_have_namespaces(), reason="the kernel gives this user no namespaces")
def test_what_leaves_the_process_group_is_killed_too(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    for _ in range(600):\n        open({str(mark)!r}, 'a').write('.')\n        time.sleep(0.02)\n"
        "while not os.path.exists(%r):\n    time.sleep(0.02)\n" % str(mark)
    )
    run_tests(program, ["pass"], LIMITS)
    size = mark.stat().st_size if mark.exists() else 0
    time.sleep(0.5)
    assert (mark.stat().st_size if mark.exists() else 0) == size
