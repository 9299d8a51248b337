"""How fast files are read, from the disk and from the system's page cache, to compare a load with. No torch."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

_BLOCK: Final = 8 * 2**20  # bytes; the buffers and offsets that O_DIRECT needs are multiples of a page
_READERS: Final = 4
_PASSES: Final = 3
_SECONDS: Final = 0.5  # of a pass, at the most
_SAMPLES: Final = 8  # of each file


def cached_share(files: Sequence[Path]) -> float:
    """The share of some files that is in the page cache, by a few samples of each; 1 where the system does not tell.

    Nothing is read from the disk for it.
    """
    found = [_is_cached(path, number) for path in files for number in range(_SAMPLES)]
    return sum(found) / len(found)


def _is_cached(path: Path, number: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.preadv(descriptor, [bytearray(1)], os.fstat(descriptor).st_size * number // _SAMPLES, os.RWF_NOWAIT)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no such reads; what cannot be read at all is the load's to report
        pass
    return True


def reading_rate(files: Sequence[Path], *, direct: bool) -> float | None:
    """Bytes a second that four threads read together: the best of three passes of half a second at the most.

    Args:
        files: what is read, as far as the time allows.
        direct: from the disk, past the page cache.

    Returns:
        None where the file system does not let anyone read past the page cache.
    """
    blocks = [(path, offset) for path in files for offset in range(0, path.stat().st_size, _BLOCK)]
    try:
        return max(_pass(blocks, direct) for _ in range(_PASSES))
    except OSError:
        if direct:
            return None
        raise


def _pass(blocks: Sequence[tuple[Path, int]], direct: bool) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(_READERS) as threads:
        parts = (blocks[reader::_READERS] for reader in range(_READERS))
        count = sum(threads.map(lambda part: _read(part, start + _SECONDS, direct), parts))
    return count / (time.perf_counter() - start)


def _read(blocks: Sequence[tuple[Path, int]], end: float, direct: bool) -> int:
    count = 0
    with mmap.mmap(-1, _BLOCK) as buffer:
        for path, offset in blocks:
            if time.perf_counter() > end:
                break
            descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
            try:
                count += os.preadv(descriptor, [buffer], offset)
            finally:
                os.close(descriptor)
    return count
