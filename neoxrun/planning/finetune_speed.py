"""How many tokens a fine-tuning trains in a second: from data sheets on GPUs, from a short measurement on a CPU.

No torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from neoxrun.planning.devices import Device
from neoxrun.planning.finetune_memory import FinetuneSizing, Share
from neoxrun.planning.hardware import is_listed, slowest

_UTILISATION: Final = 0.4  # of a GPU's listed operations, which training reaches

# Of a core that does nothing else, measured with one thread of an AMD EPYC with AVX-512 whose products of matrices make
# 1.0e11 operations a second: the demo model with 32 to 512 tokens a row and Pythia-70M's shape with 128 to 2,048, in
# fp32, whole and with LoRA, with dropout and without. Their estimates are 0.8 to 1.4 times what was measured.
_PRODUCT_SHARE: Final = 0.65  # of that rate: the products of a step
_SCORE_SECONDS: Final = 5e-9  # a score of attention, forward and backward
_DROPPED_SECONDS: Final = 15e-9  # the same with dropout
_PARAMETER_SECONDS: Final = 5e-9  # AdamW, for each trained parameter and step
_LAYER_SECONDS: Final = 3e-3  # Python, for each layer and pass
_FURTHER_CORE: Final = 0.6  # that each core but the first adds: the second, 0.5 with the demo model, 0.6 with the other

_MATRIX: Final = 256
_MEASURED_SECONDS: Final = 0.08
_LONGEST_SECONDS: Final = 5
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class CpuSpeed:
    """What this machine's CPU does.

    Attributes:
        core_flops: multiplications and additions a second of one core, in fp32.
        threads: of each rank; None: the ranks share all cores.
    """

    core_flops: float
    threads: int | None = None


def measure_cpu() -> CpuSpeed | None:
    """Time products of matrices on one core, in a process with one thread, which takes 0.3 s; None if that fails."""
    program = f"from {__name__} import product_flops; print(product_flops())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **_ONE_THREAD},
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=True,
        )
        rate = float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return CpuSpeed(rate, int(threads) if threads.isdecimal() and int(threads) else None)


def product_flops() -> float:
    """Operations a second of this process in a product of fp32 matrices: the fastest of several."""
    import numpy as np

    left, right = np.ones((2, _MATRIX, _MATRIX), np.float32)
    product = left @ right
    best, now = float("inf"), time.perf_counter()
    end = now + _MEASURED_SECONDS
    while now < end:
        np.matmul(left, right, out=product)
        before, now = now, time.perf_counter()
        best = min(best, now - before)
    return float(2 * _MATRIX**3 / best)


def gpu_tokens(sizing: FinetuneSizing, share: Share, devices: Sequence[Device]) -> float | None:
    """Tokens a second of all GPUs; None where their speed is not known."""
    if not all(is_listed(device) for device in devices):
        return None
    rate = slowest(devices).flops(sizing.precision) * share.tp * share.replicas * _UTILISATION
    return rate / sizing.operations(recompute=share.recompute)


def cpu_tokens(
    sizing: FinetuneSizing, share: Share, speed: CpuSpeed, *, cores: int, hosts: int, passes: int, dropout: bool
) -> float | None:
    """Tokens a second of all ranks on CPUs, in fp32; None in 16 bits, whose speed differs a lot between processors.

    Args:
        sizing: the model.
        share: how it is divided.
        speed: of each host.
        cores: of each host.
        hosts: that are alike.
        passes: of a step, on each replica.
        dropout: attention has it.
    """
    if sizing.precision != "fp32":
        return None
    ranks = share.tp * share.replicas
    used = hosts * cores if speed.threads is None else min(hosts * cores, ranks * speed.threads)
    busy = 1 + (used - 1) * _FURTHER_CORE
    model, tokens = sizing.model, passes * share.micro * share.replicas * sizing.seq_length
    scores = model.num_layers * model.num_attention_heads * sizing.seq_length
    token = sizing.operations(recompute=share.recompute) / (speed.core_flops * _PRODUCT_SHARE)
    token += scores * (_DROPPED_SECONDS if dropout else _SCORE_SECONDS)
    step = (tokens * token + sizing.trained * _PARAMETER_SECONDS) / busy + passes * model.num_layers * _LAYER_SECONDS
    return tokens / step
