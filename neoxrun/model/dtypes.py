"""torch's types for the number formats of ``config.precisions``."""

from __future__ import annotations

from typing import Final

import torch

from neoxrun.config.precisions import DeviceKind
from neoxrun.config.settings import Precision

DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def device_kind(device: torch.device) -> DeviceKind:
    """The kind of a device, as planning names it."""
    return "cuda" if device.type == "cuda" else "cpu"
