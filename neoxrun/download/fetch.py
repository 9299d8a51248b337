"""Downloads many files into one folder, in parallel; either all are complete, or an error says why not."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neoxrun.download.http import HttpClient, HttpOptions
from neoxrun.download.listing import ask_sizes
from neoxrun.download.remote import LOCK_NAME, Arrival, RemoteFile, Underway, part_path, safe_name
from neoxrun.download.threads import join_within, start_each
from neoxrun.download.transfer import ContentCheck, Transfer
from neoxrun.download.trouble import Stopped
from neoxrun.errors import DataError, Interrupted, NeoxrunError, NetworkError, UsageError, classify, writing_code
from neoxrun.locks import held_file, holder
from neoxrun.terminal.log import details_of, log
from neoxrun.terminal.progress import Board
from neoxrun.terminal.words import human_bytes

_LOOK_SECONDS = 0.2
_STOP_SECONDS = 0.6
_SPARE_BYTES = 16 << 20
"""Left free on the disk, for the folder itself and for other programs."""


def fetch_files(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    jobs: int,
    options: HttpOptions,
    check: ContentCheck | None = None,
    arrived: Callable[[Arrival], None] | None = None,
    show: bool = True,
    stop: threading.Event | None = None,
) -> list[Arrival]:
    """Download files into a folder, so that each is complete and correct.

    A correct byte that has arrived is not fetched again, in this run or the next. Files already in the folder are
    checked, and kept if they are correct.

    Args:
        files: what to fetch; their names must differ.
        folder: created if it does not exist. The caller holds ``folder_lock``.
        jobs: files at a time.
        options: time-outs, tries, certificates and credentials.
        check: checks a file's contents before the file gets its name.
        arrived: called for each complete file, one at a time, even if another one fails later.
        show: show bars on stderr, or lines if it is not a terminal.
        stop: another thread may set it to end the download; what has arrived is kept.

    Returns:
        The result for each file, in the order of ``files``.

    Raises:
        UsageError: ``jobs`` is less than 1.
        NetworkError: names are unsafe or clash, or no mirror has a file.
        CheckpointError: a file's contents are wrong, from every mirror.
        DataError: the disk is full, or refuses to be written to.
        Interrupted: Ctrl-C. What has arrived is kept, as after every other error.
        Stopped: ``stop`` was set.
    """
    if jobs < 1:
        raise UsageError(f"the number of files at a time must be at least 1, not {jobs}", code="invalid_value")
    _check_names(files)
    stop = stop or threading.Event()
    client = HttpClient(options, stop)
    make_folder(folder)
    sizes = _sizes(files, folder, options, jobs)
    _check_space(sizes, folder)
    total = sum(size for size in sizes.values() if size is not None)
    with Board(len(files), None if None in sizes.values() else total, show=show) as board:
        return _Run(files, folder, client, check, arrived, board, sizes, stop).wait(jobs)


def make_folder(folder: Path) -> None:
    """Create a folder if it does not exist.

    Raises:
        DataError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder cannot be created: {error.strerror}",
            code=writing_code(error),
            where=str(folder),
        ) from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no other process writes downloads into it.

    Raises:
        DataError: another process holds it, or the folder cannot be written to.
    """
    path = folder / LOCK_NAME
    with ExitStack() as held:
        try:
            held.enter_context(held_file(path))
        except BlockingIOError as error:
            raise DataError(
                f"another neoxrun is downloading into this folder ({holder(path)})",
                code="folder_in_use",
                where=str(folder),
                hint="Wait for it to end, or stop it: what has arrived is kept.",
            ) from error
        except OSError as error:
            raise DataError(
                f"the folder cannot be written to: {error.strerror}",
                code=writing_code(error),
                where=str(folder),
            ) from error
        yield


def _check_names(files: Sequence[RemoteFile]) -> None:
    names: set[str] = set()
    for file in files:
        if safe_name(file.name) in names:
            raise NetworkError(f"the list of files names {file.name} twice", code="bad_answer")
        names.add(file.name)
    for name in names:
        parts = name.split("/")
        inside = next(("/".join(parts[:n]) for n in range(1, len(parts)) if "/".join(parts[:n]) in names), None)
        if inside is not None:
            raise NetworkError(f"the list of files names {inside} both as a file and as a folder", code="bad_answer")


def _sizes(files: Sequence[RemoteFile], folder: Path, options: HttpOptions, jobs: int) -> dict[str, int | None]:
    """Bytes of each file, for the free space and the bars: as known, as present, or as a server reports (HEAD)."""
    there = {file.name: path.stat().st_size for file in files if (path := folder / file.name).is_file()}
    told = ask_sizes([file for file in files if file.name not in there], options, jobs=jobs)
    return {file.name: told[file.name] if file.name in told else file.size or there[file.name] for file in files}


def _check_space(sizes: Mapping[str, int | None], folder: Path) -> None:
    """Fail now rather than hours later; what has already arrived needs no more space."""
    needed = 0
    for name, size in sizes.items():
        path = folder / name
        if size is not None and not path.exists():
            part = part_path(path)
            # The part's blocks on the disk: a file with holes has fewer than its length says.
            needed += size - (min(part.stat().st_blocks * 512, size) if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise DataError(
            f"the disk is too small: {human_bytes(needed)} are still to be downloaded, and only {human_bytes(free)} "
            "are free",
            code="disk_full",
            where=str(folder),
            hint="Free some space, or name a folder on another disk with --to DIR.",
        )


@dataclass
class _Run:
    """The threads of one ``fetch``, and what they share."""

    files: Sequence[RemoteFile]
    folder: Path
    client: HttpClient
    check: ContentCheck | None
    arrived: Callable[[Arrival], None] | None
    board: Board
    sizes: Mapping[str, int | None]
    stop: threading.Event
    lock: threading.Lock = field(default_factory=threading.Lock)
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    errors: list[NeoxrunError] = field(default_factory=list)
    running: list[Underway] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    def wait(self, jobs: int) -> list[Arrival]:
        """Start the threads, show their progress, and return when they have ended."""
        # The largest first, so that no large file is left for one thread at the end.
        order = sorted(self.files, key=lambda file: self.sizes[file.name] or 0, reverse=True)
        threads = start_each(self._one, order, jobs)
        try:
            while not join_within(threads, _LOOK_SECONDS) and not self.stop.is_set():
                self._show()
            if self.stop.is_set():
                self.client.abort()
                join_within(threads, _STOP_SECONDS)
        except KeyboardInterrupt:
            self.client.abort()
            join_within(threads, _STOP_SECONDS)
            raise Interrupted(
                f"interrupted: {len(self.arrivals)} of {len(self.files)} files are complete",
                hint="Run the same command again to resume: parts of the other files are kept.",
            ) from None
        with self.lock:
            if self.errors:
                raise _as_one(self.errors)
            if len(self.arrivals) < len(self.files):
                raise Stopped
            return [self.arrivals[file.name] for file in self.files]

    def _show(self) -> None:
        with self.lock:
            running = {one.name: (one.done, one.total) for one in self.running}
            done = sum(arrival.size for arrival in self.arrivals.values()) + sum(done for done, _ in running.values())
            finished = len(self.arrivals)
        self.board.update(running, finished, done)

    def _one(self, file: RemoteFile) -> None:
        """The work of a thread on one file."""
        if self.stop.is_set():
            return
        try:
            self._transfer(file)
        except Stopped:
            pass
        except Exception as error:
            details_of(error)
            self._fail(classify(error))

    def _transfer(self, file: RemoteFile) -> None:
        running = Underway(file.name, self.sizes[file.name], self.board.say)
        with self.lock:
            self.running.append(running)
        try:
            arrival = Transfer(file, self.folder, self.client, running, self.check, self.answered).run()
        finally:
            with self.lock:
                self.running.remove(running)
        with self.lock:
            self.arrivals[file.name] = arrival
            if self.arrived is not None:
                self.arrived(arrival)
        state = "already present" if arrival.url is None else f"{arrival.size} bytes in {arrival.seconds:.1f} s"
        log.debug(f"{file.name}: {state}")

    def _fail(self, error: NeoxrunError) -> None:
        with self.lock:
            self.errors.append(error)
        self.stop.set()


def _as_one(errors: Sequence[NeoxrunError]) -> NeoxrunError:
    """The first error, with the messages of the others added to its own."""
    first = errors[0]
    others = [error for error in errors[1:] if error.message != first.message]
    if others:
        first.message += "".join(f"; also: {error.message}" for error in others)
    return first
