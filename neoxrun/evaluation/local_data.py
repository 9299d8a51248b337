"""Data sets that are files in the user's data folder: found, checked and read. No network, no lm-eval.

``<data set>/<split>.jsonl`` or ``.parquet`` works for every data set of the Hugging Face hub. LAMBADA and PIQA are also
read from the files that their authors published, whose SHA-256 is compared if it is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from neoxrun.errors import DataError
from neoxrun.evaluation.documents import Document, json_documents, parquet_documents, read_raw
from neoxrun.evaluation.published_data import DatasetName, PublishedSplit, find_published

_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class DataFile:
    """A file that was read.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        published: True if these are the bytes that the authors published; None if those are not known.
    """

    path: Path
    sha256: str
    published: bool | None


@dataclass(frozen=True)
class LocalSplit:
    """Documents of one split, and the files that they came from."""

    documents: list[Document]
    files: tuple[DataFile, ...]


def read_split(dataset: DatasetName, split: str, data_dir: Path) -> LocalSplit | None:
    """The documents of a split, or None if the data folder does not hold them.

    Raises:
        DataError: a file is damaged or incomplete, or is not the published one.
    """
    for path in _split_paths(dataset, split, data_dir):
        if path.is_file():
            return _read_users_file(dataset, split, path)
    if (known := find_published(dataset, split)) is not None:
        for folder in dict.fromkeys((_dataset_folder(dataset, data_dir), data_dir / known.folder, data_dir)):
            if (folder / known.files[0]).is_file():
                again = _fetch_command(known, data_dir)
                return _read_published(known, folder, again, _split_paths(dataset, split, data_dir)[0])
    return None


def split_names(dataset: DatasetName, data_dir: Path) -> list[str]:
    """The splits with a ``<split>.jsonl`` or ``<split>.parquet`` in the data set's folder."""
    return sorted({path.stem for path in _dataset_folder(dataset, data_dir).glob("*") if path.suffix in _SUFFIXES})


def file_names(dataset: DatasetName, split: str, data_dir: Path) -> str:
    """The names of the files that would provide a split, for a message."""
    if (known := find_published(dataset, split)) is not None:
        return " and ".join(known.files)
    return str(_split_paths(dataset, split, data_dir)[0].relative_to(data_dir))


def default_data_dir() -> Path:
    """The user's data folder: ``$XDG_DATA_HOME/neoxrun/data``, by default below ``~/.local/share``."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "neoxrun" / "data"


def fetch_command(dataset: DatasetName, split: str, data_dir: Path) -> str:
    """The shell command that puts a split where ``read_split`` finds it."""
    if (known := find_published(dataset, split)) is not None:
        return _fetch_command(known, data_dir)
    path = _split_paths(dataset, split, data_dir)[0]
    # JSON's quotes do not interfere with the shell's.
    arguments = [json.dumps(name) for name in dataset[:2] if name]
    arguments += [f"data_dir={json.dumps(dataset.folder)}"] if dataset.folder else []
    arguments.append(f"split={json.dumps(split)}")
    to_json = f"to_json({json.dumps(str(path), ensure_ascii=False)})"
    program = f"from datasets import load_dataset; load_dataset({', '.join(arguments)}).{to_json}"
    return f"mkdir -p {shlex.quote(str(path.parent))} && python -c {shlex.quote(program)}"


def _fetch_command(known: PublishedSplit, data_dir: Path) -> str:
    to = "" if data_dir == default_data_dir() else f" --to {shlex.quote(str(data_dir))}"
    return known.fetch.format(folder=shlex.quote(str(data_dir / known.folder)), to=to)


def _dataset_folder(dataset: DatasetName, data_dir: Path) -> Path:
    return data_dir.joinpath(*(part for part in dataset if part))


def _split_paths(dataset: DatasetName, split: str, data_dir: Path) -> list[Path]:
    """``<data set>/<split>.jsonl`` and ``.parquet``; the configuration ``default`` may be left out of the path."""
    names = [dataset, dataset._replace(name=None)] if dataset.name == "default" else [dataset]
    return [_dataset_folder(name, data_dir) / f"{split}{suffix}" for suffix in _SUFFIXES for name in names]


def _read_users_file(dataset: DatasetName, split: str, path: Path) -> LocalSplit:
    raw = read_raw(path)
    digest = hashlib.sha256(raw.data).hexdigest()
    known = find_published(dataset, split)
    published = known is not None and known.checksums == [digest]
    documents = parquet_documents(raw) if path.suffix == ".parquet" else json_documents(raw)
    return LocalSplit(documents, (DataFile(path, digest, published or None),))


def _read_published(known: PublishedSplit, folder: Path, again: str, users: Path) -> LocalSplit:
    """Read and check published files.

    Args:
        known: which files these are.
        folder: where they are.
        again: the command that fetches them.
        users: where the user's own documents would be looked for first.
    """
    for name in known.files:
        if not (folder / name).is_file():
            raise DataError(
                f"{name} is missing in the folder of {folder / known.files[0]}",
                code="missing_data",
                where=str(folder / name),
                hint=f"Fetch it: {again}",
            )
    raws = [read_raw(folder / name) for name in known.files]
    read_files = []
    for sha256, raw in zip(known.checksums, raws, strict=True):
        digest = hashlib.sha256(raw.data).hexdigest()
        if sha256 not in (None, digest):
            raise DataError(
                f"{raw.path} is not the published file: its SHA-256 is {digest} instead of {sha256}",
                code="bad_data",
                where=str(raw.path),
                hint=f"Remove it and fetch it again: {again}\n"
                f"To score your own documents instead, put them into {users}.",
            )
        read_files.append(DataFile(raw.path, digest, True if sha256 else None))
    documents = known.parse(raws)
    if len(documents) != known.documents:
        raise DataError(
            f"{raws[0].path} holds {len(documents)} documents instead of the {known.documents} that were published",
            code="bad_data",
            where=str(raws[0].path),
            hint=f"Remove it and fetch it again: {again}",
        )
    return LocalSplit(documents, tuple(read_files))
