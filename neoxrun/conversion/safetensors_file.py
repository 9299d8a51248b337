"""Writing a safetensors file tensor by tensor, where safetensors' own writer wants all of them in memory.

The format is a header's length (8 bytes, little-endian), the header (JSON: each tensor's type, shape and range of
bytes), and the tensors' bytes one after the other.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

_NAMES: Final = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Written(NamedTuple):
    """A tensor as it is to be in the target's files: its shape on each rank, and its type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class SafetensorsFile:
    """A file under way.

    Args:
        path: where to write.
        tensors: the shape and type of each tensor, by name.

    Raises:
        OSError: the system refuses.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Written]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._at: dict[str, int] = {}
        end = 0
        for name, (shape, dtype) in tensors.items():
            size = math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
            self._at[name] = end
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that tensors begin at a multiple of 8
        self._start = 8 + len(text)
        self._file = path.open("wb")
        try:
            self._file.write(struct.pack("<Q", len(text)) + text)
            self._file.truncate(self._start + end)
        except OSError:
            self.abandon()
            raise

    @property
    def missing(self) -> int:
        """How many tensors are still to be written."""
        return len(self._at)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, in any order; its shape and type are as announced."""
        self._file.seek(self._start + self._at.pop(name))
        self._file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)

    def close(self) -> None:
        """All tensors are written: have the system put them on the disk."""
        assert not self._at, f"not written: {list(self._at)}"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close without a promise; what the system refuses now has been reported."""
        with contextlib.suppress(OSError):
            self._file.close()
