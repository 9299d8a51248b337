"""The first moments of a process that ``launch`` or torchrun has made.

torch takes seconds to import. What must hold from the start is done here, before that: Ctrl-C ends the process with
one line, a rank does not outlive its launcher, and a broken installation is named.

    python -m neoxrun.start worker FOLDER         a lone rank, or a rank of a world that something else has made
    python -m neoxrun.start agent FOLDER          starts the ranks of this host
    python -m neoxrun.start rank FOLDER PARENT    one of those; PARENT is the agent's process id
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from neoxrun.errors import Interrupted, NeoxrunError

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Become what the arguments say, and return the exit code."""
    role, folder = arguments[0], Path(arguments[1])
    if role == "rank":
        _end_with(int(arguments[2]))
    failure: NeoxrunError
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        module = importlib.import_module("neoxrun.agent" if role == "agent" else "neoxrun.worker")
        code: int = module.main(folder) if role == "agent" else module.main(folder, supervised=role == "rank")
        return code
    except KeyboardInterrupt:
        failure = Interrupted("interrupted")
    except (ImportError, OSError, MemoryError) as error:
        failure = NeoxrunError(
            f"a library cannot be loaded: {error or type(error).__name__}",
            hint="Install neoxrun anew into a fresh environment; `python -c 'import torch'` shows more.",
        )
    shutil.rmtree(folder, ignore_errors=True)
    print(failure.render(), file=sys.stderr)
    return failure.exit_code


def hold_interrupts() -> None:
    """Keep Ctrl-C back until ``main`` of the program that replaces this one can answer it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it is gone already
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
