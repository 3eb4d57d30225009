"""How much memory a piece of work takes at its peak."""

import re
import sys
from collections.abc import Callable
from pathlib import Path


def grown(work: Callable, *arguments) -> float:
    """MiB by which this process's peak lies above what it held before, while `work(*arguments)` runs.

    Linux counts anew each time. `ru_maxrss`, all there is on macOS, never falls, and a new process's begins with
    what its parent held: there a rise may stay unseen.
    """
    forget, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def peak() -> float:
        if status.exists():
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
        from resource import RUSAGE_SELF, getrusage

        return getrusage(RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    if forget.exists():
        forget.write_text("5")
    before = peak()
    work(*arguments)
    return peak() - before
