"""Whether a Hugging Face folder's tied head is tied in its files. No torch.

``tie_word_embeddings`` is a wish: where the files hold another head than the embedding, transformers 5 uses that head.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.content import StoredTensor, read_safetensors_header
from neoxrun.checkpoint.huggingface_files import has_hugging_face_files, hugging_face_files
from neoxrun.checkpoint.layout import has_neox_files, list_names
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
    path, tensor = stored[head]
    how = "is another matrix than" if isinstance(tensor, StoredTensor) else "is stored separately from"
    log.warning(
        f"the head is tied by the configuration, but {head} in {path.name} {how} the embedding: it is used, as in "
        "transformers"
    )
    return replace(settings, model=replace(settings.model, tie_embeddings=False))


def _stored(folder: Path, files: list[str]) -> dict[str, tuple[Path, object]]:
    """The file of the embedding and of the head, and what it says of them: where in it their numbers are."""
    found: dict[str, tuple[Path, object]] = {}
    for name in files:
        path = folder / name
        tensors: Mapping[str, object]
        tensors = read_safetensors_header(path) if path.suffix == ".safetensors" else read_without_tensors(path)
        for tensor in (_EMBEDDING, *_HEADS):
            if tensor in tensors:
                found[tensor] = path, tensors[tensor]
    return found


def _same(first: tuple[Path, object], second: tuple[Path, object]) -> bool:
    """Whether two stored tensors are equal: the same data of an archive, or the same bytes of safetensors.

    Two equal tensors that an archive holds separately count as different, which costs memory and changes no result.
    """
    (path, one), (other_path, other) = first, second
    if not isinstance(one, StoredTensor) or not isinstance(other, StoredTensor):
        return path == other_path and _data_of(one) == _data_of(other) is not None
    if (one.dtype, one.shape, one.end - one.begin) != (other.dtype, other.shape, other.end - other.begin):
        return False
    return all(map(operator.eq, _pieces(path, one), _pieces(other_path, other)))


def storage_of(tensor: object) -> tuple[tuple[object, ...], object]:
    """What an archive of torch.save says of a tensor's data, and where in them it begins.

    Returns:
        ``("storage", type, key, device, size)`` and an offset; nothing and None if it is not a tensor. The values are
        those of a file that nobody has checked.
    """
    while isinstance(tensor, Inert) and tensor.arguments:
        storage, *rest = tensor.arguments
        if isinstance(storage, Inert) and storage.arguments and isinstance(words := storage.arguments[0], tuple):
            return words, (rest or (None,))[0]
        tensor = storage  # a parameter is made of a tensor
    return (), None


def _data_of(tensor: object) -> tuple[str, int] | None:
    """The key of a tensor's data in an archive, and where in them it begins; None if it is not a tensor."""
    words, offset = storage_of(tensor)
    key = (words[2:3] or (None,))[0]
    return (key, offset) if isinstance(key, str) and isinstance(offset, int) else None


def _pieces(path: Path, tensor: StoredTensor) -> Iterator[bytes]:
    """The bytes of a tensor in a safetensors file, some at a time."""
    with path.open("rb") as file:
        file.seek(tensor.begin)
        for begin in range(tensor.begin, tensor.end, _PIECE):
            yield file.read(min(_PIECE, tensor.end - begin))
