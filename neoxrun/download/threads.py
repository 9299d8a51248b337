"""Threads for work that waits for the network."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def start_each(work: Callable[[Item], None], items: Iterable[Item], jobs: int) -> list[threading.Thread]:
    """Start up to ``jobs`` threads that do the work for each item, in order; returns the threads.

    They are daemons, so that one that hangs in a connection does not keep the process alive after Ctrl-C. ``work``
    must not raise.
    """
    queue = deque(items)

    def work_through_queue() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item)

    threads = [threading.Thread(target=work_through_queue, daemon=True) for _ in range(min(jobs, len(queue)))]
    for thread in threads:
        thread.start()
    return threads


def join_within(threads: Sequence[threading.Thread], seconds: float) -> bool:
    """Wait for all threads, for at most this many seconds; returns whether they have ended."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
