"""Whether a device trains in fp16. No torch at import."""

from __future__ import annotations

from neoxrun.config.settings import Precision
from neoxrun.errors import UsageError


def check_fp16(precision: Precision, kind: str) -> None:
    """Refuse fp16 on a CPU that does not compute in it, which DeepSpeed would do once everything is loaded.

    Args:
        precision: of the weights.
        kind: of the device, ``cuda`` or ``cpu``.

    Raises:
        UsageError: this CPU has no fp16.
    """
    if precision != "fp16" or kind != "cpu":
        return
    import torch  # takes seconds, and is needed for this only

    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():  # what DeepSpeed's CPU accelerator asks
        raise UsageError(
            "fp16 cannot be trained on this CPU, which does not compute in it",
            code="invalid_value",
            hint="Give --dtype bf16 or --dtype fp32.",
        )
