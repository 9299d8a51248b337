"""The job that a command hands to its ranks, and what each rank leaves behind.

A job is a private folder: ``job.pickle`` (written and read by this program only), ``rank-N.pid`` as soon as rank N
answers Ctrl-C itself, and ``rank-N.json`` where it failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neoxrun.config.settings import Settings
from neoxrun.errors import DataError, NeoxrunError
from neoxrun.planning.plan import Plan

_PREFIX = "neoxrun-job-"
_FILE = "job.pickle"
_SETTLED_SECONDS = 60  # a folder that is younger may be about to be locked


@dataclass(frozen=True)
class Job:
    """What every rank needs to know.

    Attributes:
        command: whose work it is: the name of a function in ``worker``'s table.
        settings: configuration.
        plan: which ranks there are.
        options: the command's own options, picklable.
        random_weights: build the model without a checkpoint.
        verbosity: as for ``log.set_up``.
        node_rank: this host's number among ``plan.nnodes``.
        rendezvous: ``host:port`` where several hosts meet.
        interactive: Ctrl-C belongs to the dialogue and does not end the job.
        kept: the hint where a rank dies: what is left of the work, and how to continue.
    """

    command: str
    settings: Settings
    plan: Plan
    options: Any = None
    random_weights: bool = False
    verbosity: int = 0
    node_rank: int = 0
    rendezvous: str | None = None
    interactive: bool = False
    kept: str = field(kw_only=True)

    def save(self) -> Path:
        """Write the job to a new private folder, which is locked for as long as this process lives.

        Folders that launchers left when they were killed are removed.

        Raises:
            DataError: there is no room for temporary files.
        """
        folder = None
        try:
            _sweep()
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            _lock(folder)
            (folder / _FILE).write_bytes(pickle.dumps(self))
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise DataError(
                f"temporary files cannot be written: {error.strerror}",
                hint="Make room in the folder for temporary files, or set TMPDIR to another.",
            ) from error
        return folder


def load(folder: Path) -> Job:
    """The job of a folder that ``Job.save`` made."""
    job: Job = pickle.loads((folder / _FILE).read_bytes())
    return job


def _lock(folder: Path) -> bool:
    """Whether nobody else holds a folder; then this process does, and the program that replaces it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held; or this file system has no such locks, and nothing is ever swept
        os.close(descriptor)
        return False
    os.set_inheritable(descriptor, True)
    return True


def _sweep() -> None:
    """Remove the job folders whose launcher is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or removed by its owner at this moment
            old = time.time() - folder.stat().st_mtime > _SETTLED_SECONDS
            if old and (folder / _FILE).is_file() and _lock(folder):
                shutil.rmtree(folder)


@dataclass(frozen=True)
class Failure:
    """How a rank ended that did not finish its work.

    Attributes:
        rank: which.
        exit_code: what the command ends with.
        text: for the user; empty where nothing is to be said.
        shared: every rank failed in the same way.
        lost_contact: it only noticed that another rank was gone.
    """

    rank: int
    exit_code: int
    text: str
    shared: bool = False
    lost_contact: bool = False

    def save(self, folder: Path) -> None:
        """Leave the failure for the launcher, if that still wants to know."""
        with contextlib.suppress(FileNotFoundError):
            _write(folder / f"rank-{self.rank}.json", json.dumps(asdict(self)))


def failures(folder: Path) -> dict[int, Failure]:
    """What the ranks of a job folder left, by rank."""
    found = (Failure(**json.loads(path.read_text())) for path in folder.glob("rank-*.json"))
    return {failure.rank: failure for failure in found}


def failure_of(error: NeoxrunError, rank: int, *, lost_contact: bool = False) -> Failure:
    """An exception as a failure."""
    return Failure(rank, error.exit_code, error.render(), error.shared, lost_contact)


def announce(folder: Path, rank: int) -> None:
    """Tell the launcher that this process answers Ctrl-C itself."""
    _write(folder / f"rank-{rank}.pid", str(os.getpid()))


def processes(folder: Path) -> list[int]:
    """Process ids of the ranks on this host that have announced themselves."""
    return [int(path.read_text()) for path in folder.glob("rank-*.pid")]


def _write(path: Path, text: str) -> None:
    """Write a file that its readers see whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
