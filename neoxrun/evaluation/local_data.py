"""Data sets that are files in the user's data folder: found, checked and read. No network, no lm-eval.

``<data set>/<split>.jsonl`` or ``.parquet`` works for every data set of the Hugging Face hub; LAMBADA and PIQA are also
read from the files that their authors published, whose SHA-256 is compared where it is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from neoxrun.errors import DataError
from neoxrun.terminal.words import check_unicode

Document = dict[str, Any]


class DatasetName(NamedTuple):
    """What a task calls its data set.

    Attributes:
        path: the hub's repository, such as ``allenai/ai2_arc``.
        name: one of its configurations, such as ``ARC-Easy``.
        folder: a folder of the repository, for the few tasks that name one.
    """

    path: str
    name: str | None = None
    folder: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


@dataclass(frozen=True)
class File:
    """A file that was read.

    Attributes:
        path: where it is.
        sha256: of its bytes.
        published: True where these are the bytes that the authors published; None where those are not known.
    """

    path: Path
    sha256: str
    published: bool | None


@dataclass(frozen=True)
class Split:
    """Documents of one split, and the files that they came from."""

    documents: list[Document]
    files: tuple[File, ...]


_SUFFIXES = (".jsonl", ".parquet")


class _Raw(NamedTuple):
    path: Path
    data: bytes


@dataclass(frozen=True)
class _Published:
    """One split of a data set as its authors published it.

    Attributes:
        dataset: the hub's repository of the same documents.
        names: its configurations that hold them.
        split: what the hub calls the split.
        folder: where the files may lie in the data folder, beside its top and ``<data set>``.
        files: their names and, where known, SHA-256.
        documents: how many there are.
        read: turns the files' bytes into documents with the fields of the hub.
        fetch: the command that fetches them into ``{folder}``, or below the data folder, which ``{to}`` names.
    """

    dataset: str
    names: tuple[str | None, ...]
    split: str
    folder: str
    files: tuple[tuple[str, str | None], ...]
    documents: int
    read: Callable[[Sequence[_Raw]], list[Document]]
    fetch: str


def read(dataset: DatasetName, split: str, data_dir: Path) -> Split | None:
    """The documents of a split, or None where the data folder does not have them.

    Raises:
        DataError: a file is damaged, incomplete, or not what was published.
    """
    for place in _own_places(dataset, split, data_dir):
        if place.is_file():
            return _read_own(dataset, split, place)
    if (known := _published(dataset, split)) is not None:
        for folder in dict.fromkeys((_own_folder(dataset, data_dir), data_dir / known.folder, data_dir)):
            if (folder / known.files[0][0]).is_file():
                again = _fetch_command(known, data_dir)
                return _read_published(known, folder, again, _own_places(dataset, split, data_dir)[0])
    return None


def splits(dataset: DatasetName, data_dir: Path) -> list[str]:
    """The splits that lie in the data set's own folder as ``<split>.jsonl`` or ``<split>.parquet``."""
    return sorted({path.stem for path in _own_folder(dataset, data_dir).glob("*") if path.suffix in _SUFFIXES})


def files(dataset: DatasetName, split: str, data_dir: Path) -> str:
    """The names of the files that would give a split, for a message."""
    if (known := _published(dataset, split)) is not None:
        return " and ".join(name for name, _ in known.files)
    return str(_own_places(dataset, split, data_dir)[0].relative_to(data_dir))


def default_data_dir() -> Path:
    """The user's data folder: ``$XDG_DATA_HOME/neoxrun/data``, by default below ``~/.local/share``."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "neoxrun" / "data"


def fetch_command(dataset: DatasetName, split: str, data_dir: Path) -> str:
    """The shell command that puts a split where ``read`` finds it."""
    if (known := _published(dataset, split)) is not None:
        return _fetch_command(known, data_dir)
    place = _own_places(dataset, split, data_dir)[0]
    # JSON's quotes leave the shell's alone.
    arguments = [json.dumps(name) for name in dataset[:2] if name]
    arguments += [f"data_dir={json.dumps(dataset.folder)}"] if dataset.folder else []
    arguments.append(f"split={json.dumps(split)}")
    to_json = f"to_json({json.dumps(str(place), ensure_ascii=False)})"
    program = f"from datasets import load_dataset; load_dataset({', '.join(arguments)}).{to_json}"
    return f"mkdir -p {shlex.quote(str(place.parent))} && python -c {shlex.quote(program)}"


def _fetch_command(known: _Published, data_dir: Path) -> str:
    to = "" if data_dir == default_data_dir() else f" --to {shlex.quote(str(data_dir))}"
    return known.fetch.format(folder=shlex.quote(str(data_dir / known.folder)), to=to)


def _own_folder(dataset: DatasetName, data_dir: Path) -> Path:
    return data_dir.joinpath(*(part for part in dataset if part))


def _own_places(dataset: DatasetName, split: str, data_dir: Path) -> list[Path]:
    """``<data set>/<split>.jsonl`` and ``.parquet``; the configuration ``default`` need not be written out."""
    names = [dataset, dataset._replace(name=None)] if dataset.name == "default" else [dataset]
    return [_own_folder(name, data_dir) / f"{split}{suffix}" for suffix in _SUFFIXES for name in names]


def _read_own(dataset: DatasetName, split: str, path: Path) -> Split:
    raw = _Raw(path, _bytes(path))
    digest = hashlib.sha256(raw.data).hexdigest()
    known = _published(dataset, split)
    published = known is not None and [sha256 for _, sha256 in known.files] == [digest]
    documents = _parquet(raw) if path.suffix == ".parquet" else _json_lines(raw)
    return Split(documents, (File(path, digest, published or None),))


def _read_published(known: _Published, folder: Path, again: str, own: Path) -> Split:
    for name, _ in known.files:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / known.files[0][0]} is there, and {name} is missing beside it",
                code="missing_data",
                where=str(folder / name),
                hint=f"Fetch it: {again}",
            )
    raws = [_Raw(folder / name, _bytes(folder / name)) for name, _ in known.files]
    read_files = []
    for (_, sha256), raw in zip(known.files, raws, strict=True):
        digest = hashlib.sha256(raw.data).hexdigest()
        if sha256 not in (None, digest):
            raise _bad(
                f"{raw.path} is not the published file: SHA-256 {sha256} is expected, and it has {digest}",
                where=str(raw.path),
                hint=f"Remove it and fetch it again: {again}\n"
                f"To score documents of your own instead, write them to {own}.",
            )
        read_files.append(File(raw.path, digest, True if sha256 else None))
    documents = known.read(raws)
    if len(documents) != known.documents:
        raise _bad(
            f"{raws[0].path} holds {len(documents)} documents, and {known.documents} were published",
            where=str(raws[0].path),
            hint=f"Remove it and fetch it again: {again}",
        )
    return Split(documents, tuple(read_files))


def _bad(message: str, where: str, hint: str | None = None) -> DataError:
    return DataError(message, code="bad_data", where=where, hint=hint)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", code="unreadable_file", where=str(path)) from None


def _lines(raw: _Raw) -> list[str]:
    """The lines of a UTF-8 file. Only a line feed ends one: JSON allows U+2028 and its like within a text."""
    try:
        text = raw.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{raw.path.name} is not UTF-8 text: byte 0x{raw.data[error.start]:02x} at offset {error.start}",
            code="not_text",
            where=f"{raw.path}:{line}",
        ) from None
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        raise _bad(f"{raw.path.name} is empty", where=str(raw.path), hint="Remove it, or fetch it again.")
    return [line.removesuffix("\r") for line in lines]


def _json_lines(raw: _Raw, fields: Sequence[str] = ()) -> list[Document]:
    """A JSON object a line, all with the same keys; ``fields`` are texts that each must have."""
    documents: list[Document] = []
    for number, line in enumerate(_lines(raw), start=1):
        where = f"{raw.path}:{number}"
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad(f"this line is not JSON: {error.msg} (column {error.colno})", where=where) from None
        if not isinstance(document, dict):
            raise _bad("this line is not a JSON object", where=where)
        check_unicode(json.dumps(document, ensure_ascii=False), where)
        missing = [field for field in fields if not isinstance(document.get(field), str)]
        if missing:
            raise _bad(f'this line has no text under "{missing[0]}"', where=where)
        if documents and document.keys() != documents[0].keys():
            odd = min(document.keys() ^ documents[0].keys())
            raise _bad(f'"{odd}" is in this line or in the first one, but not in both', where=where)
        documents.append(document)
    return documents


def _parquet(raw: _Raw) -> list[Document]:
    """The rows of a Parquet file, which is how the hub itself keeps most data sets."""
    import pyarrow
    from pyarrow import parquet

    try:
        documents: list[Document] = parquet.read_table(pyarrow.BufferReader(raw.data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        message = f"{raw.path.name} is not a whole Parquet file: {error}"
        raise _bad(message, where=str(raw.path), hint="Remove it and fetch it again.") from None
    if not documents:
        raise _bad(f"{raw.path.name} has no documents", where=str(raw.path), hint="Remove it, or fetch it again.")
    return documents


def _lambada_openai(raws: Sequence[_Raw]) -> list[Document]:
    return _json_lines(raws[0], ("text",))


def _plain_text(raws: Sequence[_Raw]) -> list[Document]:
    lines = _lines(raws[0])
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise _bad("this line is empty; each should hold a text", where=f"{raws[0].path}:{number}")
    return [{"text": line, "domain": None} for line in lines]


def _piqa(raws: Sequence[_Raw]) -> list[Document]:
    texts, labels = raws
    documents = _json_lines(texts, ("goal", "sol1", "sol2"))
    lines = [line.strip() for line in _lines(labels)]
    if len(lines) != len(documents):
        raise _bad(
            f"{texts.path.name} holds {len(documents)} questions, and {labels.path.name} {len(lines)} labels",
            where=str(labels.path),
        )
    for number, line in enumerate(lines, start=1):
        if line not in ("0", "1"):
            raise _bad(f"a label is 0 or 1, not {line!r}", where=f"{labels.path}:{number}")
    fields = ("goal", "sol1", "sol2")
    return [
        {**{field: document[field] for field in fields}, "label": int(line)}
        for document, line in zip(documents, lines, strict=True)
    ]


_LAMBADA_DEVELOPMENT = (
    "mkdir -p {folder} && curl -fL https://zenodo.org/records/2630551/files/lambada-dataset.tar.gz "
    "| tar xz -C {folder} --wildcards '*_plain_text.txt'"
)
_PIQA_TRAIN = (
    "curl -fL --create-dirs -o {folder}/'#1' 'https://yonatanbisk.com/piqa/data/{{train.jsonl,train-labels.lst}}'"
)

_PUBLISHED = (
    _Published(
        dataset="EleutherAI/lambada_openai",
        names=(None, "default", "en"),  # the hub has the same bytes under both names
        split="test",
        folder="lambada",
        files=(("lambada_test.jsonl", "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"),),
        documents=5153,
        read=_lambada_openai,
        fetch="neoxrun download --tasks lambada_openai{to}",
    ),
    _Published(
        dataset="cimec/lambada",
        names=(None, "plain_text"),
        split="test",
        folder="lambada",
        files=(("lambada_test_plain_text.txt", None),),
        documents=5153,
        read=_plain_text,
        fetch="neoxrun download --tasks lambada_standard{to}",
    ),
    _Published(
        dataset="cimec/lambada",
        names=(None, "plain_text"),
        split="validation",
        folder="lambada",
        files=(("lambada_development_plain_text.txt", None),),
        documents=4869,
        read=_plain_text,
        fetch=_LAMBADA_DEVELOPMENT,
    ),
    _Published(
        dataset="baber/piqa",
        names=(None,),
        split="validation",
        folder="piqa",
        files=(
            ("valid.jsonl", "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d"),
            ("valid-labels.lst", "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb"),
        ),
        documents=1838,
        read=_piqa,
        fetch="neoxrun download --tasks piqa{to}",
    ),
    _Published(
        dataset="baber/piqa",
        names=(None,),
        split="train",
        folder="piqa",
        files=(("train.jsonl", None), ("train-labels.lst", None)),
        documents=16113,
        read=_piqa,
        fetch=_PIQA_TRAIN,
    ),
)


def _published(dataset: DatasetName, split: str) -> _Published | None:
    return next(
        (
            known
            for known in _PUBLISHED
            if dataset.path == known.dataset
            and not dataset.folder
            and dataset.name in known.names
            and split == known.split
        ),
        None,
    )
