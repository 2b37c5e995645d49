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
import struct
import sys
import types
from typing import Any

# Numbers of Linux, which Python does not name: unshare(2), prctl(2), mount_setattr(2), mount(2), capset(2).
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
MS_NOSUID, MS_NODEV, MS_PRIVATE = 2, 4, 1 << 18
CAPABILITIES_VERSION = 0x20080522

FILE_BYTES, OPEN_FILES = 16 * 2**20, 64
FOLDER = b"size=64m,mode=700"


def main() -> None:
    """Read the job, shut this process in, and run it in a child that dies with it."""
    job = json.load(sys.stdin)
    verdicts = os.fdopen(os.dup(1), "w")
    _silence()
    _shut_in(ctypes.CDLL(None, use_errno=True))
    _die_with_parent()
    child = os.fork()  # a new namespace of processes begins with it; when it ends, all of them do
    if child:
        verdicts.close()
        signal.signal(signal.SIGTERM, lambda *given: os.kill(child, signal.SIGKILL))
        os.waitpid(child, 0)
        os._exit(0)
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
    )  # not __main__, whose guarded part reads input
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


def _shut_in(libc: ctypes.CDLL) -> None:
    """Namespaces of its own, where the kernel lets this user have them.

    A network without devices, no way to reach other processes, and files that can be read only, but for an
    empty folder in memory in place of the one that it stands in.
    """
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    user, group = os.getuid(), os.getgid()
    apart = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID
    if libc.unshare(CLONE_NEWUSER | apart) == 0:
        _keep_ids(user, group)
    elif libc.unshare(apart) != 0:
        return
    _read_only(libc)
    header = struct.pack("Ii", CAPABILITIES_VERSION, 0)
    libc.capset(header, bytes(24))  # else it could make all that undone


def _keep_ids(user: int, group: int) -> None:
    """The user and the group are the same inside as outside."""
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, content in maps.items():
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def _read_only(libc: ctypes.CDLL) -> None:
    folder = os.getcwd()
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0)
    libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes))
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, FOLDER) == 0:
        os.chdir(folder)


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
