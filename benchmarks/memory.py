"""The largest resident memory of a stretch of work."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5)


def give_back() -> None:
    """Free what Python and the C library hold on to, so that no run counts in the next one's peak."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def reset_peak() -> bool:
    """Start a new peak; False where the system cannot, so that the peak stays that of the whole process."""
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def peak_mb() -> float:
    """Largest resident memory since the last reset, 10^6 bytes."""
    try:
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
