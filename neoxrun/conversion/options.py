"""What `neoxrun convert` and `neoxrun diff` are asked for, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from neoxrun.config.settings import Precision, Settings

RECEIPT_NAME: Final = "neoxrun.receipt.json"
"""The receipt's name in the folder that a conversion writes."""

_UNITS: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)")


@dataclass(frozen=True)
class ConvertOptions:
    """One conversion.

    Attributes:
        settings: the source's configuration; its ``checkpoint`` is the source.
        target: the folder to write; it does not exist, or is empty.
        kind: what to write.
        tp: tensor-parallel ranks of GPT-NeoX files; 1 for Hugging Face.
        dtype: number format to write; None: that of each tensor in the source.
        shard_size: most bytes of tensors in a safetensors file, unless one tensor has more.
        show_progress: whether to draw bars.
    """

    settings: Settings
    target: Path
    kind: Literal["neox", "huggingface"]
    tp: int
    dtype: Precision | None
    shard_size: int
    show_progress: bool = True


def parse_bytes(text: str) -> int:
    """The bytes in ``5GB``, ``500MB``, ``2GiB`` or ``4096``.

    Raises:
        ValueError: it is not a size greater than 0.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _UNITS or float(match[1]) * _UNITS[match[2]] < 1:
        raise ValueError(f"{text!r} is not a size such as 5GB")
    return int(float(match[1]) * _UNITS[match[2]])
