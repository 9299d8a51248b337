"""Where fp16 is trained."""

from __future__ import annotations

import pytest
import torch

from neoxrun.errors import UsageError
from neoxrun.training.fp16 import check_fp16


def test_fp16_needs_a_cpu_that_computes_in_it() -> None:
    check_fp16("fp16", "cuda")
    check_fp16("bf16", "cpu")
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        check_fp16("fp16", "cpu")
    else:
        with pytest.raises(UsageError, match="fp16 cannot be trained on this CPU"):
            check_fp16("fp16", "cpu")
