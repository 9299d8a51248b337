"""Which files of a Hugging Face folder hold its weights, by their names and its index. No torch."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.content import damaged_file, is_file_name
from neoxrun.checkpoint.missing import refuse_missing
from neoxrun.config.huggingface import read_json
from neoxrun.errors import CheckpointError

# The names of a single file, of the index of several, and of one of several; the preferred form first: safetensors hold
# nothing but tensors. A variant is in the name: `model.fp16.safetensors`, `model.safetensors.index.fp16.json`.
_WHOLE: Final = (re.compile(r"model(\.\w+)?\.safetensors"), re.compile(r"pytorch_model(\.\w+)?\.bin"))
_INDEX: Final = (
    re.compile(r"model\.safetensors\.index(\.\w+)?\.json"),
    re.compile(r"pytorch_model\.bin\.index(\.\w+)?\.json"),
)
_NUMBERED: Final = (
    re.compile(r"(model(?:\.\w+)?)-(\d{5})-of-(\d{5})(\.safetensors)"),
    re.compile(r"(pytorch_model(?:\.\w+)?)-(\d{5})-of-(\d{5})(\.bin)"),
)


def has_hugging_face_files(names: Collection[str]) -> bool:
    """Whether a folder with these names holds Hugging Face weights."""
    return any(pattern.fullmatch(name) for pattern in (*_WHOLE, *_INDEX, *_NUMBERED) for name in names)


def hugging_face_files(folder: Path, names: Collection[str]) -> list[str]:
    """The names of the files that hold a Hugging Face folder's weights.

    They are a single file, those that an index names, or, in a folder without an index, those whose names say that they
    are parts of one model.

    Args:
        folder: the folder.
        names: all names in it.

    Raises:
        CheckpointError: files are missing, the index is damaged, or files are numbered as parts of two models.
    """
    files = _named_files(folder, names)
    refuse_missing(folder, [name for name in files if not (folder / name).is_file()])
    return files


def has_index(names: Collection[str]) -> bool:
    """Whether one of these names is that of an index."""
    return any(index.fullmatch(name) for index in _INDEX for name in names)


def _named_files(folder: Path, names: Collection[str]) -> list[str]:
    """Those whose names belong to one model, whether they are present or not."""
    for whole, index in zip(_WHOLE, _INDEX, strict=True):
        # The shortest name is the one without a variant.
        if found := [name for name in names if whole.fullmatch(name)]:
            return [min(found, key=len)]
        if found := [name for name in names if index.fullmatch(name)]:
            return _indexed(folder / min(found, key=len))
    return numbered_files(folder, names)


def _indexed(path: Path) -> list[str]:
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path.name} has no weight_map", code="damaged_file", where=str(path))
    if strange := [name for name in table.values() if not is_file_name(name)]:
        raise damaged_file(path, f"names {reprlib.repr(strange[0])}, which is not a file in its folder")
    return sorted(set(table.values()))


def numbered_files(folder: Path, names: Collection[str]) -> list[str]:
    """The names of all parts of the model of which numbered files are among ``names``; none without such files.

    Raises:
        CheckpointError: they are parts of two models.
    """
    for pattern in _NUMBERED:
        if matches := [match for name in sorted(names) if (match := pattern.fullmatch(name))]:
            break
    else:
        return []
    stem = min((match[1] for match in matches), key=len)
    counts = sorted({match[3] for match in matches if match[1] == stem})
    if len(counts) > 1:
        raise CheckpointError(
            f"there are files {stem}-*-of-{counts[0]} and {stem}-*-of-{counts[1]}, and no index that chooses",
            code="mixed_checkpoints",
            where=str(folder),
            hint="Move the files of one of the two checkpoints elsewhere.",
        )
    return [f"{stem}-{number:05d}-of-{counts[0]}{matches[0][4]}" for number in range(1, int(counts[0]) + 1)]
