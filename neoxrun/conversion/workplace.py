"""The folder in which a conversion grows: it gets its final name when it is whole, and not before.

It is ``TARGET.partial``, next to the target. A file in it has its name only once it is whole and on the disk, so that
an interrupted conversion continues with the files that are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from neoxrun.conversion.options import RECEIPT_NAME
from neoxrun.errors import DataError, UsageError, writing_code
from neoxrun.locks import held_folder
from neoxrun.terminal.words import human_bytes

_JOB: Final = "neoxrun.conversion.json"
_WRITING: Final = ".writing"
_SPARE: Final = 16 << 20  # bytes left free on the disk


class Workplace:
    """The folder under way; ``open_workplace`` makes it.

    Attributes:
        folder: where the files are until ``publish``.
        resumed: whether an earlier conversion has begun it.
    """

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder, self.resumed = folder, resumed

    def has(self, name: str) -> bool:
        """Whether the file is whole."""
        return (self.folder / name).is_file()

    def begin(self, name: str) -> Path:
        """Where to write a file, until ``finish``; its last part is that of ``name``."""
        path = self.folder / _WRITING / Path(name).name
        with self.writing():
            path.parent.mkdir(exist_ok=True)
        return path

    def finish(self, name: str) -> None:
        """The file that ``begin`` named is whole."""
        path = self.folder / name
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.begin(name).replace(path)

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Write a whole file with ``save`` and put it on the disk.

        Raises:
            DataError: the system refuses.
        """
        path = self.begin(name)
        with self.writing():
            try:
                save(path)
            except RuntimeError as error:
                raise _refusal(path) from error  # torch.save does not say why the system refused
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self.finish(name)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of these bytes."""
        self.write(name, lambda path: path.write_bytes(content))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def save(self, name: str, value: object) -> None:
        """Write a file as torch.save does."""
        self.write(name, lambda path: torch.save(value, path))

    def require(self, count: int) -> None:
        """Refuse to begin what the disk has no room for.

        Args:
            count: bytes still to be written.

        Raises:
            DataError: the disk has less.
        """
        free = shutil.disk_usage(self.folder).free
        if free < count + _SPARE:
            raise DataError(
                f"{human_bytes(count)} are still to be written, and the disk has {human_bytes(free)} free",
                code="disk_full",
                where=str(self.folder),
                hint="Make room, or name a folder on another disk. What has been written is kept.",
            )

    def clear(self) -> None:
        """Remove what has been begun and is not whole."""
        shutil.rmtree(self.folder / _WRITING, ignore_errors=True)

    def publish(self, target: Path) -> None:
        """Give the folder its final name."""
        self.clear()
        with self.writing():
            (self.folder / _JOB).unlink(missing_ok=True)
            self.folder.rename(target)
            descriptor = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around whatever writes into the folder: what the system refuses there is said to be about the folder.

        Raises:
            DataError: the system refuses.
        """
        try:
            yield
        except OSError as error:
            raise _unwritable(error, self.folder) from error


def _refusal(path: Path) -> OSError:
    """Why the system refused to write ``path``: what it says when it is asked for more."""
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return OSError(None, "writing failed", str(path))


@contextmanager
def open_workplace(target: Path, job: Mapping[str, Any]) -> Iterator[Workplace]:
    """Hold the folder in which ``target`` grows. On an error it stays, for the same conversion to continue.

    Args:
        target: the folder to be.
        job: what tells this conversion from others, as JSON values.

    Raises:
        DataError: the target exists, another process converts into it, or the system refuses.
        UsageError: another conversion has begun it.
    """
    target = target.absolute()
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise DataError(
            f"{target} exists already",
            code="existing_target",
            where=str(target),
            hint="Name another folder, or remove this one.",
        )
    folder = target.with_name(f"{target.name}.partial")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held_folder(folder))
        except BlockingIOError as error:
            raise DataError(
                "another neoxrun is converting into this folder",
                code="folder_in_use",
                where=str(folder),
                hint="Wait for it to end, or stop it: what it has written is kept.",
            ) from error
        except OSError as error:
            raise _unwritable(error, folder, "Name a folder that can be written, or make this one writable.") from error
        try:
            resumed = _same_job(folder, dict(job))
        except OSError as error:
            raise _unwritable(error, folder) from error
        yield Workplace(folder, resumed)


def _same_job(folder: Path, job: dict[str, Any]) -> bool:
    """Whether the folder holds the beginning of this conversion; if it is empty, note which one it will hold."""
    begun = False
    for name in (_JOB, RECEIPT_NAME):  # a conversion that ended just before the folder's last name has a receipt only
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            begun = True
            if (found if name == _JOB else found["job"]) == job:
                return True
    new = folder / f"{_JOB}.new"
    if any(path != new for path in folder.iterdir()):
        if not begun:
            raise UsageError(
                "the conversion needs this folder, and it holds something else",
                code="conflicting_options",
                where=str(folder),
                hint="Name another target, or move what is in the folder elsewhere.",
            )
        raise UsageError(
            "an earlier conversion into this folder had another source or other options, or its source has changed",
            code="conflicting_options",
            where=str(folder),
            hint="Run its command again to continue it, or remove the folder to start over.",
        )
    new.write_text(json.dumps(job), encoding="utf-8")
    new.replace(folder / _JOB)
    return False


def _unwritable(
    error: OSError, folder: Path, hint: str = "Fix this and run the command again: what has been written is kept."
) -> DataError:
    return DataError(
        f"the folder cannot be written: {error.strerror or error}",
        code=writing_code(error),
        where=str(error.filename or folder),
        hint=hint,
    )
