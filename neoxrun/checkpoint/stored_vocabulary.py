"""How many rows the vocabulary of a checkpoint has, by what its files say of their tensors. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from neoxrun.checkpoint.content import StoredTensor, read_safetensors_header
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.config.saved_args import Inert, read_without_tensors
from neoxrun.config.tensors import canonical

_EMBEDDINGS: Final = ("word_embeddings.weight", "gpt_neox.embed_in.weight")


def stored_vocab_rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the (padded) vocabulary over all shards; None where the files do not tell.

    Those that do not are sequential files, files of torch before 1.6, and whatever ``load.read_vocab_rows`` refuses.

    Raises:
        CheckpointError: a file is damaged.
        OSError: a file cannot be read.
    """
    if checkpoint.kind == "sequential":
        return None
    files = checkpoint.layer_files[0] if checkpoint.kind == "layers" else checkpoint.files
    found = [rows for path in files for rows in _rows_in(path)]
    return sum(found) if found and (checkpoint.kind == "huggingface" or len(found) == len(files)) else None


def _rows_in(path: Path) -> list[int]:
    """The first dim of the embedding in a file, if it is there."""
    tensors = read_safetensors_header(path) if path.suffix == ".safetensors" else read_without_tensors(path)
    sizes = [_shape(tensor) for name, tensor in tensors.items() if canonical(str(name)) in _EMBEDDINGS]
    return [size[0] for size in sizes if len(size) == 2 and all(isinstance(one, int) for one in size)]


def _shape(tensor: object) -> tuple[int, ...]:
    """The shape of a tensor; empty where it is not one. In an archive it follows the storage and the offset."""
    if isinstance(tensor, StoredTensor):
        return tensor.shape
    while isinstance(tensor, Inert) and tensor.arguments and not _is_storage(tensor.arguments[0]):
        tensor = tensor.arguments[0]  # a parameter is made of a tensor
    found = tensor.arguments[2:3] if isinstance(tensor, Inert) else ()
    return found[0] if found and isinstance(found[0], tuple) else ()


def _is_storage(value: object) -> bool:
    return isinstance(value, Inert) and bool(value.arguments) and isinstance(value.arguments[0], tuple)
