"""What a device can do at the most, measured on it, and the memory that a rank has had."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from neoxrun.benchmark.floors import Hardware
from neoxrun.engine.allocator import return_freed_memory
from neoxrun.engine.session import peak_host_bytes
from neoxrun.model.kernels.cpu import linear, pack_weight
from neoxrun.planning.devices import cpu_device

_RUNS: Final = 5
_SECONDS: Final = 1.0
_READ: Final = {"cuda": 2**31, "cpu": 2**28}  # bytes: more than any cache holds
_WIDTH: Final = {"cuda": 8192, "cpu": 1024}  # of a square product, large enough to reach the device's rate


def measure_hardware(device: torch.device, dtype: torch.dtype) -> Hardware:
    """Read a large tensor and multiply two large matrices. What they take of the device's memory is given back.

    Args:
        device: what is measured.
        dtype: number format of the matrices.
    """
    _give_back(device)
    hardware = Hardware(_memory_rate(device), _product_rate(device, dtype))
    _give_back(device)
    return hardware


def _give_back(device: torch.device) -> None:
    """Give back the memory that torch, or the C library, keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        return_freed_memory()


def _memory_rate(device: torch.device) -> float:
    """Bytes a second: of a sum, or of a copy where that is faster (those read and those written)."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = cpu_device().free_bytes
    source = torch.ones(min(_READ[device.type], free // 4) // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    read = source.nbytes / _shortest(source.sum, device)
    return max(read, 2 * source.nbytes / _shortest(lambda: target.copy_(source), device))


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the kernel that linear layers use."""
    width = _WIDTH[device.type]
    x = torch.randn(width, width, dtype=dtype, device=device)
    weight = pack_weight(torch.randn(width, width, dtype=dtype, device=device))
    return 2 * width**3 / _shortest(lambda: linear(x, weight, None), device)


def _shortest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest run after the first; of the first where one takes a second."""
    found: list[float] = []
    while len(found) < _RUNS and sum(found) < _SECONDS:
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Forget how much memory this rank has had, where the system lets it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """Most memory that this rank has had since ``reset_peak``.

    On a GPU all that torch has taken: weights, cache, workspace and graphs, without CUDA's own context. On the CPU the
    whole process.
    """
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_host_bytes()
