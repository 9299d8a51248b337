"""Revisions of a repository on this disk, one after the other: the next is fetched while one is in use.

At most two are on disk. What is done with them is the caller's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neoxrun.download.catalog import Model
from neoxrun.download.fetch import make_folder
from neoxrun.download.http import HttpOptions
from neoxrun.download.order import Downloaded, carry_out_order, default_folder, order_repository
from neoxrun.download.revisions import Revision
from neoxrun.download.trouble import Stopped
from neoxrun.errors import DataError, Interrupted, NeoxrunError, classify, writing_code
from neoxrun.terminal.log import details_of, log, waiting
from neoxrun.terminal.words import human_bytes

MARK = ".neoxrun.revision"
"""A file in a folder that is to be removed after use; the process that uses the folder holds it locked."""

_JOBS = 4
_LOOK_SECONDS = 0.2
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class RevisionOptions:
    """Where and how revisions are fetched.

    Attributes:
        model: whose revisions they are.
        parent: each revision gets a folder in it, named as `neoxrun download` names it.
        keep: leave the folders on disk.
        http: time-outs, tries, certificates and credentials.
        show: show how the first download proceeds.
    """

    model: Model
    parent: Path
    keep: bool = False
    http: HttpOptions = field(default_factory=HttpOptions)
    show: bool = True

    def folder(self, revision: Revision) -> Path:
        """The folder of a revision."""
        return self.parent / default_folder(self.model, revision.name).name


def fetch_in_turn(
    revisions: Sequence[Revision], options: RevisionOptions
) -> Generator[tuple[Revision, Path], None, None]:
    """Yield each revision with its complete folder; the next one is fetched meanwhile.

    A folder is removed when the caller asks for the next one, unless it existed before or is to be kept. Folders that
    an interrupted command has left are used first, and removed if they are not needed. When the caller stops early,
    both folders stay, so that the same command continues from there.

    Raises:
        NetworkError, CheckpointError: a revision cannot be fetched; what has arrived is kept.
        DataError: the disk is full, or another process uses the folder of the revision whose turn it is.
        Interrupted: Ctrl-C while a revision was awaited.
    """
    _remove_left(options, {options.folder(revision) for revision in revisions[:2]})
    held: list[_Fetch] = []
    try:
        for number, revision in enumerate(revisions):
            if not held:
                held.append(_Fetch(revision, options, show=options.show))
            folder = _arrived(held[0])
            following = revisions[number + 1 : number + 2]
            held += [_Fetch(one, options, show=False) for one in following]
            yield revision, folder
            held.pop(0).give_up_folder(remove=not options.keep)
            if held and held[0].failed("disk_full", "folder_in_use"):  # there may be room now, or the other has ended
                held.pop().stop()
                held += [_Fetch(one, options, show=False) for one in following]
    finally:
        for fetch in held:
            fetch.stop()


def _arrived(fetch: _Fetch) -> Path:
    """The folder of a revision, when it is complete."""
    done = fetch.wait()
    if done.fetched:
        size = human_bytes(sum(arrival.size for arrival in done.fetched))
        log.info(f"{fetch.revision.name}: {size} downloaded in {done.seconds:.0f} s")
    return fetch.folder


class _Fetch:
    """The download of one revision, in a thread, into a folder that this process holds; ``wait`` raises what fails."""

    def __init__(self, revision: Revision, options: RevisionOptions, *, show: bool) -> None:
        self.revision, self.folder = revision, options.folder(revision)
        self._options, self._show = options, show
        self._done: Downloaded | None = None
        self._error: NeoxrunError | None = None
        self._stop = threading.Event()
        self._lock: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        options = self._options
        try:
            self._lock = _claim(self.folder, self.revision.repository.name, options.keep)
            order = order_repository(options.model, self.revision.repository, self.folder, options.http)
            self._done = carry_out_order(order, jobs=_JOBS, show=self._show, stop=self._stop)
        except Stopped:
            pass
        except Exception as error:
            details_of(error)
            self._error = classify(error)

    def wait(self) -> Downloaded:
        """Wait for the end of the download.

        Raises:
            NeoxrunError: see ``fetch_in_turn``.
        """
        try:
            with waiting(f"waiting for {self.revision.name} to arrive", log.info, still=lambda: not self._show):
                while self._thread.is_alive():
                    self._thread.join(_LOOK_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted while {self.revision.name} was fetched",
                hint="Run the same command again to resume: what has arrived is kept.",
            ) from None
        if self._error is not None:
            raise self._explained(self._error)
        assert self._done is not None
        return self._done

    def _explained(self, error: NeoxrunError) -> NeoxrunError:
        """The error, with the name of the revision, and a hint that fits this command."""
        error.message = f"{self.revision.name}: {error.message}"
        if error.code == "disk_full":
            error.hint = "Free some space, or name a folder on another disk with --revisions-dir DIR. "
        elif error.code == "failed_download":
            error.hint = f"{error.hint or ''} ".lstrip()
        else:
            return error
        error.hint += "The same command continues: what was finished is kept."
        return error

    def failed(self, *codes: str) -> bool:
        """Whether the download has ended with one of these errors."""
        return not self._thread.is_alive() and self._error is not None and self._error.code in codes

    def stop(self) -> None:
        """End the download; what has arrived is kept for the next time."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)
        self._unlock()

    def give_up_folder(self, *, remove: bool) -> None:
        """The folder is not needed any more: remove it, unless it belongs to the user."""
        if self._lock is not None:
            if remove:
                _remove(self.folder)
            else:
                (self.folder / MARK).unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _claim(folder: Path, repository: str, keep: bool) -> int | None:
    """Create and mark a folder, or take over one with a mark: the descriptor that locks it.

    None for a folder that is not to be removed: it exists already, is a link, or is to be kept.

    Raises:
        DataError: another process uses it, or it cannot be written to.
    """
    mark = folder / MARK
    if folder.is_symlink() or (not mark.exists() and (keep or folder.exists())):
        return None
    make_folder(folder)
    try:
        descriptor = _locked(mark)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{repository}\n".encode())
    except BlockingIOError as error:
        raise DataError(
            "another neoxrun is using this folder",
            code="folder_in_use",
            where=str(folder),
            hint="Wait for it to end, or name another folder for the revisions with --revisions-dir DIR.",
        ) from error
    except OSError as error:
        raise DataError(
            f"the folder cannot be written to: {error.strerror}", code=writing_code(error), where=str(folder)
        ) from error
    return descriptor


def _locked(mark: Path) -> int:
    """Lock a mark, which is created if it does not exist.

    Raises:
        OSError: another process holds it (BlockingIOError), or it cannot be opened.
    """
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_left(options: RevisionOptions, needed: set[Path]) -> None:
    """Remove the folders that an interrupted command has left, except those that are needed now."""
    for mark in options.parent.glob(f"*/{MARK}"):
        if mark.parent in needed or mark.parent.is_symlink():
            continue
        with contextlib.suppress(OSError):  # another process holds it, or it is gone
            if mark.read_text(encoding="utf-8", errors="replace").strip() == options.model.hub:
                descriptor = _locked(mark)
                try:
                    _remove(mark.parent)
                finally:
                    os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a folder; the mark goes last, so that what is left after an interruption is still recognized."""
    try:
        for path in folder.iterdir():
            if path.name != MARK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(folder)
    except OSError as error:
        log.warning(f"{folder} cannot be removed: {error.strerror or error}")
