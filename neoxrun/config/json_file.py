"""JSON files of a model's folder, read in one way: a byte-order mark is passed over, a Git LFS pointer is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import CheckpointError, DataError
from neoxrun.terminal.words import failure

# For each error, the codes of a file that cannot be read as JSON, and of one that is something else.
_CODES: Final[Mapping[type[CheckpointError | DataError], tuple[str, str]]] = {
    CheckpointError: ("unreadable_checkpoint", "damaged_file"),
    DataError: ("bad_tokenizer", "bad_tokenizer"),
}


def read_json_object(path: Path, error_class: type[CheckpointError | DataError]) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError, DataError: the one that was given: the file cannot be read, or holds something else.
    """
    unreadable, other = _CODES[error_class]
    try:
        content = path.read_bytes()
        refuse_lfs_pointer(path, content, error_class)
        value = json.loads(content.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(f"cannot read {path.name}: {failure(error)}", code=unreadable, where=str(path)) from error
    if not isinstance(value, dict):
        raise error_class(f"{path.name} does not hold a JSON object", code=other, where=str(path))
    return value


def refuse_lfs_pointer(path: Path, content: bytes, error_class: type[CheckpointError | DataError]) -> None:
    """Refuse what Git leaves in place of a file where Git LFS is not installed.

    Raises:
        CheckpointError, DataError: the one that was given: ``content`` is such a pointer.
    """
    if content.startswith(b"version https://git-lfs"):
        raise error_class(
            f"{path.name} is a Git LFS pointer, not the file itself",
            code=_CODES[error_class][1],
            where=str(path),
            hint="The folder was cloned without Git LFS: `git lfs pull` in it fetches the files.",
        )
