"""What the child process of `sandbox.py` runs: shuts itself in, then runs a program and its tests.

It is handed to `python -c` as text, so it imports nothing but the standard library. The program and the tests
come on the standard input as JSON, the verdicts leave on the standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import types
from typing import Any

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
FILE_BYTES, OPEN_FILES = 16 * 2**20, 64


def main() -> None:
    """Read the job, shut this process in, and run it in a child that dies with it."""
    job = json.load(sys.stdin)
    verdicts = os.fdopen(os.dup(1), "w")
    _silence()
    _without_network()
    child = os.fork()  # a new namespace of processes begins with it; when it ends, all of them do
    if child:
        verdicts.close()
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) != 0)
    _die_with_parent()
    _limit(job["seconds"], job["memory"])
    passed = run(job["program"], job["tests"])
    verdicts.write(json.dumps({"nonce": job["nonce"], "passed": passed}))
    verdicts.close()
    os._exit(0)  # threads and exit handlers of the program have no say


def run(program: str, tests: list[str]) -> list[bool]:
    """Whether each test runs through, behind the program, without raising; all False where that does not."""
    module = sys.modules["answer"] = types.ModuleType(
        "answer"
    )  # not __main__: its guarded part may read input
    names = vars(module)
    if not _runs(program, names):
        return [False] * len(tests)
    return [_runs(test, names) for test in tests]


def _runs(code: str, names: dict[str, Any]) -> bool:
    try:
        exec(compile(code, "<answer>", "exec", dont_inherit=True), names)
    except BaseException:  # also SystemExit: a program that ends itself has passed nothing
        return False
    return True


def _silence() -> None:
    """Whatever the program reads is empty, and whatever it prints is lost."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def _without_network() -> None:
    """A network without devices and processes of its own, where the kernel lets this user have them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    both = CLONE_NEWNET | CLONE_NEWPID
    if libc.unshare(CLONE_NEWUSER | both) and libc.unshare(both):
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    _die_with_parent()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _limit(seconds: int, memory: int) -> None:
    """Limits of this process and of what it starts, which it cannot raise again."""
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for limit, pair in limits.items():
        with contextlib.suppress(ValueError, OSError):  # the user's own limit is lower still
            resource.setrlimit(limit, pair)


if __name__ == "__main__":
    main()
