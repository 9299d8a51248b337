from __future__ import annotations

import threading

import pytest

from neoxrun.parallel.background import both, in_background


def test_both_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meet(value: int) -> int:
        meeting.wait()
        return value

    assert both(lambda: meet(1), lambda: meet(2)) == (1, 2)


def test_the_first_failure_does_not_wait_for_the_other() -> None:
    never = threading.Event()
    with pytest.raises(ValueError, match="broken"):
        both(lambda: never.wait(60), lambda: int("broken"))
    never.set()


def test_whoever_waits_gets_what_was_raised() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_background(interrupted).result(10)
