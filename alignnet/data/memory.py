"""How much memory this process has taken."""

from __future__ import annotations

import os
import resource
import sys


def peak_memory_mb() -> float:
    """Largest resident memory of this process [MB]."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def physical_memory() -> int:
    """The machine's memory [bytes]."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
