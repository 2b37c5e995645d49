"""How much memory the process has used."""

from __future__ import annotations

import sys


def peak_gb() -> float | None:
    """Largest resident memory of this process so far, 10^9 bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
