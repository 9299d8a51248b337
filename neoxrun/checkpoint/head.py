"""Whether a Hugging Face folder's tied head is tied in its files. No torch.

``tie_word_embeddings`` is a wish: where the files hold another head than the embedding, transformers 5 uses that head.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from neoxrun.checkpoint.layout import has_hugging_face_files, has_neox_files, hugging_face_files, list_names
from neoxrun.config.saved_args import Inert, read_without_tensors
from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError
from neoxrun.terminal.log import log

_EMBEDDING: Final = "gpt_neox.embed_in.weight"
_HEADS: Final = ("embed_out.weight", "lm_head.weight")
_PIECE: Final = 1 << 24


def use_stored_head(settings: Settings) -> Settings:
    """``settings`` whose head is not tied if the checkpoint's files hold another one than the embedding.

    Files that are missing or damaged change nothing: whoever loads them reports that.
    """
    folder = settings.checkpoint
    if not settings.model.tie_embeddings or folder is None or not folder.is_dir():
        return settings
    try:
        names = list_names(folder)
        if has_neox_files(names) or not has_hugging_face_files(names):
            return settings
        stored = _stored(folder, hugging_face_files(folder, names))
        head = next((name for name in _HEADS if name in stored), None)
        if head is None or _EMBEDDING not in stored or _same(stored[_EMBEDDING], stored[head]):
            return settings
    except (CheckpointError, OSError):
        return settings
    log.warning(
        f"the head is tied by the configuration, but {head} in {stored[head][0].name} is another matrix than the "
        "embedding: it is used, as in transformers"
    )
    return replace(settings, model=replace(settings.model, tie_embeddings=False))


def _stored(folder: Path, files: list[str]) -> dict[str, tuple[Path, Any]]:
    """The file of the embedding and of the head, and where in it their numbers are."""
    found: dict[str, tuple[Path, Any]] = {}
    for name in files:
        path = folder / name
        tensors = _safetensors_header(path) if path.suffix == ".safetensors" else read_without_tensors(path)
        for tensor in (_EMBEDDING, *_HEADS):
            if tensor in tensors:
                found[tensor] = path, tensors[tensor]
    return found


def _same(first: tuple[Path, Any], second: tuple[Path, Any]) -> bool:
    """Whether two stored tensors are equal: the same data of an archive, or the same bytes of safetensors.

    Two equal tensors that an archive holds separately count as different, which costs memory and changes no result.
    """
    if first[0].suffix != ".safetensors":
        return first[0] == second[0] and _data_of(first[1]) == _data_of(second[1]) is not None
    if any(first[1].get(key) != second[1].get(key) for key in ("dtype", "shape")):
        return False
    return all(one == other for one, other in zip(_pieces(*first), _pieces(*second), strict=True))


def _data_of(tensor: object) -> object:
    """The words that name a tensor's data and where in them it begins; None if the stand-in is not a tensor's."""
    while isinstance(tensor, Inert) and tensor.arguments:
        storage, *rest = tensor.arguments
        if isinstance(storage, Inert) and isinstance(pid := next(iter(storage.arguments), None), tuple):
            return pid[2:], rest[:1]
        tensor = storage  # a parameter is made of a tensor
    return None


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The table of a safetensors file; empty if it is damaged."""
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        try:
            table = json.loads(file.read(min(size, path.stat().st_size)))
        except ValueError:
            return {}
    if not isinstance(table, dict):
        return {}
    return {name: entry | {"start": 8 + size} for name, entry in table.items() if isinstance(entry, dict)}


def _pieces(path: Path, entry: dict[str, Any]) -> Iterator[bytes]:
    """The bytes of a tensor in a safetensors file, some at a time."""
    first, last = entry["data_offsets"]
    with path.open("rb") as file:
        file.seek(entry["start"] + first)
        for begin in range(first, last, _PIECE):
            yield file.read(min(_PIECE, last - begin))
