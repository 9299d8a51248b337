"""The C library's memory allocator, in processes that belong to neoxrun."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**29


def keep_freed_memory() -> None:
    """Reuse freed memory instead of returning it to the system.

    Every layer allocates and frees buffers of megabytes, which glibc returns: the system then has to clear and map
    their pages again, a third of the time of a pass on the CPU (benchmarks/README.md). Only glibc is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def return_freed_memory() -> None:
    """Return all freed memory to the system, once, after work that takes more of it than what follows."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
