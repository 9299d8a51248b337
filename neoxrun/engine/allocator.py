"""The C library's memory allocator, in a process of our own."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**29


def keep_freed_memory() -> None:
    """Let freed blocks be used again instead of giving them back to the system.

    Every layer takes and frees buffers of megabytes, and glibc gives those back: the system then clears and maps each
    page anew, a third of the time of a pass on the CPU (benchmarks/README.md). Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
