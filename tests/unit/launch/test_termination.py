"""SIGTERM is answered as Ctrl-C is, and is told apart from it afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from neoxrun.errors import DataError, Interrupted, Terminated
from neoxrun.launch.termination import Termination


def test_only_what_was_interrupted_is_renamed() -> None:
    termination = Termination()
    interrupted = Interrupted("interrupted after 3 of 5 documents", hint="They are kept.")
    assert termination.rename(interrupted) is interrupted
    termination.raised = True
    found = termination.rename(interrupted)
    assert isinstance(found, Terminated)
    assert (found.message, found.hint, found.exit_code) == (
        "ended by SIGTERM after 3 of 5 documents",
        "They are kept.",
        143,
    )
    other = DataError("the disk is full", code="disk_full")
    assert termination.rename(other) is other


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_command_stops_also_where_ctrl_c_is_ignored(handler: signal.Handlers) -> None:
    termination = Termination()
    before = signal.signal(signal.SIGINT, handler)
    answers = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), termination.answered():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert termination.raised
    assert signal.getsignal(signal.SIGTERM) == answers


def test_other_threads_leave_signals_alone() -> None:
    answers = signal.getsignal(signal.SIGTERM)
    found = []

    def command() -> None:
        with Termination().answered():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=command)
    thread.start()
    thread.join()
    assert found == [answers]


STUCK = """
import ctypes, os, signal, sys
from neoxrun.launch import termination
termination._GRACE_SECONDS = 0.3
def leave():
    print("left", flush=True)
    os._exit(143)
signal.signal(signal.SIGINT, lambda *_: print("as Ctrl-C", flush=True))
termination.Termination().watch(signal.SIGTERM, leave)
print("ready", flush=True)
while True:  # a call that does not come back to Python
    ctypes.CDLL(None).sleep(100)
"""


def test_a_process_that_is_in_a_long_call_ends_in_time() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert rest.endswith("left\n")
