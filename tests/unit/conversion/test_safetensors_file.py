"""Files that are written tensor by tensor are those of the safetensors library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.conversion.safetensors_file import SafetensorsFile, Written

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(7).to(torch.float16),
    "c": torch.randn(2, 2).t(),
    "d": torch.randn(4).to(torch.bfloat16),
}


def test_any_order(tmp_path: Path) -> None:
    header = {name: Written(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}
    file = SafetensorsFile(tmp_path / "x.safetensors", header)
    for name in reversed(TENSORS):
        assert file.missing > 0
        file.write(name, TENSORS[name])
    assert file.missing == 0
    file.close()
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == TENSORS.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_a_file_that_lacks_a_tensor_is_not_closed(tmp_path: Path) -> None:
    file = SafetensorsFile(tmp_path / "x.safetensors", {"a": Written((2,), torch.float32)})
    with pytest.raises(AssertionError, match="not written"):
        file.close()
    file.abandon()
