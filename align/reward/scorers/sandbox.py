"""Runs unknown Python with its tests in a locked-down child process.

The child has: an environment of its own, Python without the user's paths, a fresh folder that is removed
behind it, no input and no output; limits on CPU time, memory, the size of files and the number of open
files and processes; and, where the kernel lets the user have namespaces, no network, no way to reach other
processes, and no file that it can write outside of its folder. It is killed with its whole process group
when its time by the clock is up.

This is no security boundary. The child reads what the user may read. Where namespaces are forbidden it also
writes what the user may write, and has the network; to root the limit on processes does not apply. Run what
you do not trust in a container or a virtual machine. A program can also make its tests pass without solving
anything, for example by an object that equals everything.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import IO

from align.reward.scorers import sandbox_child

VERDICT_BYTES = 2**20
# Nothing of the user's environment. The order of sets is the same each time; libraries start no threads.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Seconds by the clock: twice the CPU time, and more for a busy machine.
CLOCK_FACTOR, CLOCK_EXTRA = 2, 10


@dataclass(frozen=True)
class Limits:
    """Of one child.

    Attributes:
        seconds: CPU time.
        memory: Bytes of address space.
    """

    seconds: int
    memory: int


def run_tests(program: str, tests: Sequence[str], limits: Limits) -> list[bool]:
    """Which of the tests pass behind the program.

    Args:
        program: Python source.
        tests: Python sources, run one after the other in the names that the program left; one that raises
            nothing has passed.
        limits: Of the child. Where it runs into one, all tests have failed.

    Raises:
        OSError: No process can be started.
    """
    job = {
        "program": program,
        "tests": list(tests),
        "seconds": limits.seconds,
        "memory": limits.memory,
        "nonce": secrets.token_hex(16),
    }
    with (
        tempfile.TemporaryDirectory(prefix="align-tests-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as verdicts,
    ):
        _run(json.dumps(job).encode(), folder, verdicts, CLOCK_FACTOR * limits.seconds + CLOCK_EXTRA)
        return _read(verdicts, str(job["nonce"])) or [False] * len(tests)


def _run(job: bytes, folder: str, verdicts: IO[bytes], seconds: float) -> None:
    """Start the child and wait until it ends or its time is up; nothing of its process group is left."""
    child = subprocess.Popen(
        [sys.executable, "-s", "-P", "-c", _source()],
        stdin=subprocess.PIPE,
        stdout=verdicts,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(job, timeout=seconds)
        child.terminate()  # it kills and buries what runs the program
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(CLOCK_EXTRA)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(verdicts: IO[bytes], nonce: str) -> list[bool] | None:
    """The verdicts, if the child wrote them itself: the program does not know the nonce."""
    verdicts.seek(0)
    try:
        found = json.loads(verdicts.read(VERDICT_BYTES))
        return [bool(one) for one in found["passed"]] if found["nonce"] == nonce else None
    except (ValueError, TypeError, KeyError):
        return None


@cache
def _source() -> str:
    return inspect.getsource(sandbox_child)
