"""The job that a command hands to its ranks, and the files that each rank leaves in its folder.

A job is a private folder: ``job.pickle`` (written and read by this program only), ``rank-N.pid`` as soon as rank N
answers Ctrl-C itself, ``rank-N.json`` where it failed, and ``cause.json`` where an owned job failed.
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
from neoxrun.errors import DataError, NeoxrunError, writing_code
from neoxrun.generation.lines import FileState, kept_hint
from neoxrun.planning.plan import Plan
from neoxrun.terminal.log import error_text
from neoxrun.training.folder import continuing_hint

_PREFIX = "neoxrun-job-"
_FILE = "job.pickle"
_CAUSE = "cause.json"
_SETTLED_SECONDS = 60  # a folder that is younger may be about to be locked


@dataclass(frozen=True)
class Job:
    """What every rank needs to know.

    Attributes:
        command: "generate", "evaluate", "score", "bench" or "serve", by which ``worker`` chooses the work.
        settings: configuration.
        plan: which ranks there are.
        options: the command's own options, picklable.
        random_weights: build the model without a checkpoint.
        eager: capture no CUDA graphs.
        stall_timeout: seconds after which a rank is stuck; None: never.
        verbosity, as_json: as for ``log.set_up``.
        node_rank: this host's number among ``plan.nnodes``.
        rendezvous: ``host:port`` where several hosts meet.
        interactive: Ctrl-C belongs to the dialogue and does not end the job.
        patient: after Ctrl-C or SIGTERM the ranks that answer it have as long as they need: a checkpoint takes minutes.
        kept: the hint if the job ends early: which work is kept, and how to continue.
        records: the file that the work is kept in as it is done, without which ``kept`` is not true; None: ``kept`` is
            true in any case.
        run: the folder of a fine-tuning, whose newest checkpoint takes the place of ``kept`` once there is one.
        lock: the file of the lock that the launcher holds on the output, which is removed at the end.
        replaced: the state of ``records`` before the job, if it replaces them.
        owned: the process that has started the job reads why it failed from the folder, and removes that.
    """

    command: str
    settings: Settings
    plan: Plan
    options: Any = None
    random_weights: bool = False
    eager: bool = False
    stall_timeout: float | None = None
    verbosity: int = 0
    as_json: bool = False
    node_rank: int = 0
    rendezvous: str | None = None
    interactive: bool = False
    patient: bool = False
    kept: str = field(kw_only=True)
    records: Path | None = None
    run: Path | None = None
    lock: Path | None = None
    replaced: FileState | None = None
    owned: bool = False

    def continuing(self) -> str:
        """The hint if the job ends now."""
        if self.run is not None:
            return continuing_hint(self.run)
        return self.kept if self.records is None else kept_hint(self.kept, self.records, self.replaced)

    def save(self) -> Path:
        """Write the job to a new private folder, which is locked for as long as this process lives.

        Folders of launchers that were killed are removed.

        Raises:
            DataError: temporary files cannot be written.
        """
        return self.save_and_lock()[0]

    def save_and_lock(self) -> tuple[Path, int | None]:
        """As ``save``, with the descriptor that holds the lock, for a process that outlives the job.

        The descriptor is inheritable, and None on a file system without locks.
        """
        folder = None
        try:
            _sweep()
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            descriptor = _lock(folder)
            (folder / _FILE).write_bytes(pickle.dumps(self))
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise DataError(
                f"temporary files cannot be written: {error.strerror}",
                code=writing_code(error),
                hint="Make room in the folder for temporary files, or set TMPDIR to another.",
            ) from error
        return folder, descriptor


def load_job(folder: Path) -> Job:
    """The job of a folder that ``Job.save`` made."""
    job: Job = pickle.loads((folder / _FILE).read_bytes())
    return job


def _lock(folder: Path) -> int | None:
    """Lock a folder for this process and the program that replaces it: the descriptor, None if that failed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it; or this file system has no such locks, and nothing is ever swept
        os.close(descriptor)
        return None
    os.set_inheritable(descriptor, True)
    return descriptor


def _sweep() -> None:
    """Remove the job folders whose launcher has ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or removed by its owner at this moment
            old = time.time() - folder.stat().st_mtime > _SETTLED_SECONDS
            if old and (folder / _FILE).is_file() and (descriptor := _lock(folder)) is not None:
                try:
                    shutil.rmtree(folder)
                finally:
                    os.close(descriptor)


@dataclass(frozen=True)
class Failure:
    """How a rank that did not finish its work ended.

    Attributes:
        rank: its number.
        exit_code: what the command ends with.
        code: which mistake it is, one of ``errors.CODES``.
        text: the message for the user; empty if none is to be shown.
        shared: every rank failed in the same way.
        message, where, hint: of the error.
    """

    rank: int
    exit_code: int
    code: str
    text: str
    shared: bool = False
    message: str = ""
    where: str | None = None
    hint: str | None = None

    @property
    def lost_contact(self) -> bool:
        """Whether the rank only noticed that another one had ended."""
        return self.code == "lost_contact"

    def save(self, folder: Path) -> None:
        """Write the failure to the job's folder for the agent, unless that has ended and removed it."""
        with contextlib.suppress(FileNotFoundError):
            _write(folder / f"rank-{self.rank}.json", json.dumps(asdict(self)))

    def save_as_cause(self, folder: Path) -> None:
        """Write the failure that ended an owned job to its folder, unless its owner has removed that."""
        with contextlib.suppress(FileNotFoundError):
            _write(folder / _CAUSE, json.dumps(asdict(self)))

    def to_error(self) -> NeoxrunError:
        """An error with the same code and words."""
        kinds: list[type[NeoxrunError]] = [NeoxrunError, *NeoxrunError.__subclasses__()]
        kind = next(kind for kind in kinds if kind.exit_code == self.exit_code)
        return kind(self.message, code=self.code, where=self.where, hint=self.hint)


def read_failures(folder: Path) -> dict[int, Failure]:
    """The failures in a job's folder, by rank."""
    found = (Failure(**json.loads(path.read_text())) for path in folder.glob("rank-*.json"))
    return {failure.rank: failure for failure in found}


def read_cause(folder: Path) -> Failure | None:
    """The failure that ended an owned job, by its folder; None where the job left none."""
    try:
        return Failure(**json.loads((folder / _CAUSE).read_text()))
    except FileNotFoundError:
        return None


def failure_of(error: NeoxrunError, rank: int | None, *, verbose: bool) -> Failure:
    """The failure of a rank, or of the agent (None), that raised ``error``; with ``verbose`` its text has the code."""
    text = error_text(error, rank, verbose=verbose)
    return Failure(rank or 0, error.exit_code, error.code, text, error.shared, error.message, error.where, error.hint)


def announce_rank(folder: Path, rank: int) -> None:
    """Tell the agent that this process answers Ctrl-C itself."""
    _write(folder / f"rank-{rank}.pid", str(os.getpid()))


def announced_processes(folder: Path) -> list[int]:
    """Process ids of the ranks on this host that have announced themselves."""
    return [int(path.read_text()) for path in folder.glob("rank-*.pid")]


def _write(path: Path, text: str) -> None:
    """Write a file so that its readers see all of it or nothing."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)
