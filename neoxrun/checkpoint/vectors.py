"""The norms and biases of a file, which are read without what is between them.

The first access to a page of a mapped file reads up to megabytes around it: 4.5 GB for the 10 MB of norms and biases of
GPT-NeoX-20B, where the system reads 8 MB ahead. safetensors' own library does so for every matrix, too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from neoxrun.checkpoint.content import read_safetensors_header, refuse_other_content, unreadable_file
from neoxrun.errors import CheckpointError

_TYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_vectors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: those of one dimension at most, and the others without numbers (``meta``).

    Raises:
        CheckpointError: the file is damaged or cannot be read.
    """
    found: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file:
            refuse_other_content(path, file.read(64))
            for name, (kind, shape, begin, end) in read_safetensors_header(path).items():
                dtype = _TYPES.get(kind)
                if dtype is None:
                    raise CheckpointError(
                        f"{path.name} holds {name} as {kind}, which neoxrun does not read",
                        code="unsupported_checkpoint",
                        where=str(path),
                    )
                if len(shape) > 1 or end == begin:
                    found[name] = torch.empty(shape, dtype=dtype, device="meta" if len(shape) > 1 else "cpu")
                else:
                    content = bytearray(os.pread(file.fileno(), end - begin, begin))
                    found[name] = torch.frombuffer(content, dtype=dtype).view(shape)
    except OSError as error:
        raise unreadable_file(path, error) from error
    return found


def read_alone(tensor: Tensor) -> None:
    """Have the system read no more than the pages of this tensor, when its numbers are first looked at.

    Args:
        tensor: in memory, mapped or not.
    """
    if not tensor.numel():
        return
    begin = tensor.data_ptr()
    start = begin // mmap.PAGESIZE * mmap.PAGESIZE
    length = begin + tensor.numel() * tensor.element_size() - start
    libc = ctypes.CDLL(None)
    for advice in (mmap.MADV_RANDOM, mmap.MADV_WILLNEED):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)
