"""Norms and biases are read without the matrices between them."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neoxrun.checkpoint.files import read_safetensors
from neoxrun.checkpoint.vectors import read_vectors
from neoxrun.conversion.survey import survey_folder
from neoxrun.errors import CheckpointError

MATRIX = (1024, 1024)
VECTOR = (16384,)
PAIRS = 48


def layers() -> dict[str, tuple[int, ...]]:
    """Vectors with matrices of 2 MB between them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(PAIRS):
        shapes[f"gpt_neox.layers.{number}.attention.dense.weight"] = MATRIX
        shapes[f"gpt_neox.layers.{number}.attention.dense.bias"] = VECTOR
    return shapes


def write_safetensors(folder: Path) -> Path:
    """All zeros, which take no room on the disk."""
    header, end = {}, 0
    for name, shape in layers().items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def write_bin(folder: Path) -> Path:
    path = folder / "pytorch_model.bin"
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(shape, dtype=torch.float16) for name, shape in layers().items()}, path)
    return path


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages)
        del first  # or the mapping could not be closed
    assert not failed
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.mark.parametrize("write", [write_safetensors, write_bin])
def test_a_survey_reads_headers_and_vectors_only(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Of 100 MB the 1.6 MB of vectors and little more, not what mapped files usually read around each."""
    path = write(tmp_path)
    forget(path)
    if cached_bytes(path):
        pytest.skip("this file system keeps files in memory")
    survey = survey_folder(tmp_path)
    assert len(survey.tensors) == 2 * PAIRS
    assert survey.tensor_bytes == PAIRS * 2 * (1024 * 1024 + 16384)
    assert cached_bytes(path) < 4_000_000


def test_vectors_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    numbers = torch.randn(5, generator=torch.Generator().manual_seed(0))
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.float8_e4m3fn)
    tensors = {str(kind): (numbers * 3).abs().to(kind) for kind in kinds}
    tensors |= {"matrix": torch.ones(2, 3), "one": torch.tensor(7.0), "none": torch.empty(0)}
    save_file(tensors, path)
    found = read_vectors(path)
    whole = read_safetensors(path)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype)
        assert found[name].is_meta == (name == "matrix")
        assert found[name].is_meta or found[name].tolist() == tensor.tolist()


def test_a_damaged_file_and_an_unknown_type(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError) as caught:
        read_vectors(path)
    assert caught.value.code == "damaged_file"
    text = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0")
    with pytest.raises(CheckpointError, match="as F4") as caught:
        read_vectors(path)
    assert caught.value.code == "unsupported_checkpoint"
    with pytest.raises(CheckpointError, match="No such file") as caught:
        read_vectors(tmp_path / "none.safetensors")
    assert caught.value.code == "unreadable_checkpoint"
