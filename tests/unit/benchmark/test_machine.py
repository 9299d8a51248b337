"""What the CPU gives, and a process's peak memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from neoxrun.benchmark import machine
from neoxrun.benchmark.machine import measure_hardware
from support.tiny_models import CPU

forgets_peaks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not let a process forget its peak memory"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hardware_is_measured(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine._READ, "cpu", 2**24)
    monkeypatch.setitem(machine._WIDTH, "cpu", 256)
    hardware = measure_hardware(CPU, dtype)
    for rate in (hardware.bytes_per_second, hardware.operations_per_second):
        assert math.isfinite(rate)
        assert rate > 1e7


@forgets_peaks
def test_peak_memory_is_that_since_the_reset() -> None:
    """In a process of its own: an engine in this one may have made it keep what it frees."""
    program = """
import torch
from neoxrun.benchmark.machine import peak_bytes, reset_peak
cpu = torch.device("cpu")
reset_peak(cpu)
print(peak_bytes(cpu))
block = torch.ones(2**26)
del block
print(peak_bytes(cpu))
reset_peak(cpu)
print(peak_bytes(cpu))
"""
    before, raised, forgotten = _figures(program)
    assert raised - before > 2**27
    assert raised - forgotten > 2**27


@forgets_peaks
def test_what_is_measured_with_does_not_count_as_memory() -> None:
    """In a process that keeps what it frees, as ranks do."""
    program = """
import torch
from neoxrun.benchmark.machine import measure_hardware, peak_bytes, reset_peak
from neoxrun.engine.allocator import keep_freed_memory
keep_freed_memory()
cpu = torch.device("cpu")
measure_hardware(cpu, torch.float32)
before = peak_bytes(cpu)
reset_peak(cpu)
print(before - peak_bytes(cpu))
"""
    (fallen,) = _figures(program)
    assert fallen > machine._READ["cpu"], "two such tensors were held"


def _figures(program: str) -> list[int]:
    """The numbers that ``program`` prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]
