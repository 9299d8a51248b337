"""What a Hugging Face folder's files decide in place of its config.json. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from neoxrun.checkpoint.content import read_safetensors_header
from neoxrun.checkpoint.head import storage_of, use_stored_head
from neoxrun.checkpoint.huggingface_files import has_hugging_face_files, hugging_face_files
from neoxrun.checkpoint.layout import has_neox_files, list_names
from neoxrun.config.saved_args import Inert, read_without_tensors
from neoxrun.config.settings import Precision, Settings
from neoxrun.errors import CheckpointError
from neoxrun.terminal.log import log

# The number formats in which weights can be used, as safetensors and as archives of torch.save name them.
_FORMATS: Final[Mapping[object, Precision]] = {
    **{"F64": "fp32", "F32": "fp32", "F16": "fp16", "BF16": "bf16"},
    **{"DoubleStorage": "fp32", "FloatStorage": "fp32", "HalfStorage": "fp16", "BFloat16Storage": "bf16"},
}


def use_stored(settings: Settings) -> Settings:
    """``settings`` with what the checkpoint's files decide: another head than the embedding, and the number format.

    Files that are missing or damaged change nothing: whoever loads them reports that.
    """
    return _use_stored_precision(use_stored_head(settings))


def _use_stored_precision(settings: Settings) -> Settings:
    """The number format of the first tensor, where no configuration states one: as transformers 5 does."""
    folder = settings.checkpoint
    if settings.precision_stated or folder is None or not folder.is_dir():
        return settings
    try:
        names = list_names(folder)
        if has_neox_files(names) or not has_hugging_face_files(names):
            return settings
        first = folder / hugging_face_files(folder, names)[0]
        found = next((_FORMATS[name] for name in _formats_in(first) if name in _FORMATS), settings.precision)
    except (CheckpointError, OSError):
        return settings
    log.debug(f"config.json states no number format: {found}, that of the weights")
    return replace(settings, precision=found)


def _formats_in(path: Path) -> Iterator[object]:
    """The number formats of the tensors in a file of weights, one after the other."""
    if path.suffix == ".safetensors":
        yield from (tensor.dtype for tensor in read_safetensors_header(path).values())
        return
    for tensor in read_without_tensors(path).values():
        words, _ = storage_of(tensor)
        if len(words) > 1 and isinstance(words[1], Inert) and words[1].name is not None:
            yield words[1].name[1]
