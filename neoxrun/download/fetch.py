"""Many files into one folder: in parallel, one program at a time, and either all whole or a message why not."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neoxrun.download.http import Client, Options
from neoxrun.download.listing import told_sizes
from neoxrun.download.remote import LOCK_NAME, Arrival, RemoteFile, Underway, part_path, safe_name
from neoxrun.download.threads import join, start_each
from neoxrun.download.transfer import Check, Transfer
from neoxrun.download.trouble import Stopped
from neoxrun.errors import DataError, Interrupted, NeoxrunError, NetworkError, UsageError, classify, writing_code
from neoxrun.terminal.log import details_of, log
from neoxrun.terminal.progress import Board
from neoxrun.terminal.words import human_bytes

_LOOK_SECONDS = 0.2
_STOP_SECONDS = 0.6
_SPARE_BYTES = 16 << 20
"""Left free on the disk, for the folder itself and for what else is written meanwhile."""


def fetch(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    jobs: int,
    options: Options,
    check: Check | None = None,
    arrived: Callable[[Arrival], None] | None = None,
    show: bool = True,
) -> list[Arrival]:
    """Have all files in the folder, whole.

    A byte that has arrived and is right is not fetched again, neither in this run nor in the next. Files that are
    there are read through and, where they are right, left alone.

    Args:
        files: what to fetch; their names must differ.
        folder: made where it does not exist. The caller holds ``folder_lock``.
        jobs: files at a time.
        options: time-outs, tries, certificates and credentials.
        check: proves a file's contents before it gets its name.
        arrived: is told of each file that is there, one at a time, also when another one fails later.
        show: keep bars on stderr, or lines where that is not a terminal.

    Returns:
        What became of each file, in their order.

    Raises:
        UsageError: no job.
        NetworkError: names that are not safe or clash; a file that no mirror gives.
        CheckpointError: a file whose contents are wrong, wherever it was fetched from.
        DataError: the disk is full or refuses.
        Interrupted: Ctrl-C. What has arrived is kept, as after every other error.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} files at a time is too few", code="invalid_value")
    _check_names(files)
    stop = threading.Event()
    client = Client(options, stop)
    make(folder)
    sizes = _sizes(files, folder, options, jobs)
    _check_space(sizes, folder)
    total = sum(size for size in sizes.values() if size is not None)
    with Board(len(files), None if None in sizes.values() else total, show=show) as board:
        return _Run(files, folder, client, check, arrived, board, sizes, stop).wait(jobs)


def make(folder: Path) -> None:
    """Have a folder.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder cannot be made: {error.strerror}", code=writing_code(error), where=str(folder)
        ) from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no other process writes downloads into it.

    Raises:
        DataError: another process holds it, or the folder cannot be written to.
    """
    path = folder / LOCK_NAME
    try:
        descriptor = _locked(path)
    except BlockingIOError as error:
        raise DataError(
            f"another neoxrun is downloading into this folder (process {_holder(path)})",
            code="folder_in_use",
            where=str(folder),
            hint="Wait for it, or end it: what has arrived is kept.",
        ) from error
    except OSError as error:
        raise DataError(
            f"the folder cannot be written to: {error.strerror}", code=writing_code(error), where=str(folder)
        ) from error
    try:
        yield
    finally:
        # While it is still held: nobody else can have made it theirs.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between these two steps: then it is nobody's.
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        found = re.fullmatch(r"\d{1,10}", path.read_text(encoding="ascii", errors="replace").strip())
    except OSError:
        found = None
    return found[0] if found else "unknown"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _check_names(files: Sequence[RemoteFile]) -> None:
    names: set[str] = set()
    for file in files:
        if safe_name(file.name) in names:
            raise NetworkError(f"the list of files has {file.name} twice", code="bad_answer")
        names.add(file.name)
    for name in names:
        parts = name.split("/")
        inside = next(("/".join(parts[:n]) for n in range(1, len(parts)) if "/".join(parts[:n]) in names), None)
        if inside is not None:
            raise NetworkError(f"the list of files has {inside} both as a file and as a folder", code="bad_answer")


def _sizes(files: Sequence[RemoteFile], folder: Path, options: Options, jobs: int) -> dict[str, int | None]:
    """Bytes of each file, for the room and the bars: known, there, or told by the server without being asked for."""
    there = {file.name: path.stat().st_size for file in files if (path := folder / file.name).is_file()}
    told = told_sizes([file for file in files if file.name not in there], options, jobs=jobs)
    return {file.name: told[file.name] if file.name in told else file.size or there[file.name] for file in files}


def _check_space(sizes: Mapping[str, int | None], folder: Path) -> None:
    """Refuse now what would fail hours later; what has arrived already needs no more room."""
    needed = 0
    for name, size in sizes.items():
        path = folder / name
        if size is not None and not path.exists():
            part = part_path(path)
            # What the part takes on the disk, which is less than its length where it has holes.
            needed += size - (min(part.stat().st_blocks * 512, size) if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise DataError(
            f"{human_bytes(needed)} are still to arrive, but only {human_bytes(free)} are free on this disk",
            code="disk_full",
            where=str(folder),
            hint="Make room, or name a folder on another disk with --to DIR.",
        )


@dataclass
class _Run:
    """The threads of one ``fetch``, and what they share."""

    files: Sequence[RemoteFile]
    folder: Path
    client: Client
    check: Check | None
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
        """Start the threads, show how far they are, and end with them."""
        # The largest first: at the end no thread is left alone with one.
        order = sorted(self.files, key=lambda file: self.sizes[file.name] or 0, reverse=True)
        threads = start_each(self._one, order, jobs)
        try:
            while not join(threads, _LOOK_SECONDS) and not self.stop.is_set():
                self._show()
            if self.stop.is_set():
                self.client.abort()
                join(threads, _STOP_SECONDS)
        except KeyboardInterrupt:
            self.client.abort()
            join(threads, _STOP_SECONDS)
            raise Interrupted(
                f"interrupted: {len(self.arrivals)} of {len(self.files)} files are there, and what came of the others",
                hint="Give the same command again: it goes on where it stopped.",
            ) from None
        with self.lock:
            if self.errors:
                raise _as_one(self.errors)
            return [self.arrivals[file.name] for file in self.files]

    def _show(self) -> None:
        with self.lock:
            running = {one.name: (one.done, one.total) for one in self.running}
            done = sum(arrival.size for arrival in self.arrivals.values()) + sum(done for done, _ in running.values())
            finished = len(self.arrivals)
        self.board.update(running, finished, done)

    def _one(self, file: RemoteFile) -> None:
        """What a thread does for one file."""
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
        state = "there already" if arrival.url is None else f"{arrival.size} bytes in {arrival.seconds:.1f} s"
        log.debug(f"{file.name}: {state}")

    def _fail(self, error: NeoxrunError) -> None:
        with self.lock:
            self.errors.append(error)
        self.stop.set()


def _as_one(errors: Sequence[NeoxrunError]) -> NeoxrunError:
    """The first error; the others are named in its message."""
    first = errors[0]
    others = [error for error in errors[1:] if error.message != first.message]
    if others:
        first.message += "".join(f"; also: {error.message}" for error in others)
    return first
