"""Phrases that the words of a plan and of a refusal share."""

from __future__ import annotations

from neoxrun.config.settings import Precision
from neoxrun.terminal.words import counted, human_bytes


def weights(size: int, precision: Precision) -> str:
    """``41.1 GB of fp16 weights``."""
    return f"{human_bytes(size)} of {precision} weights"


def gpus(per_host: int, nnodes: int) -> str:
    """``2 GPUs on each of 3 hosts``."""
    return counted(per_host, "GPU") + (f" on each of {nnodes} hosts" if nnodes > 1 else "")


def sizes(tp: int | None, pp: int | None, replicas: int | None = None) -> str:
    """``tp 2 x pp 1``: the sizes that are set."""
    named = (("tp", tp), ("pp", pp), ("replicas", replicas))
    return " x ".join(f"{name} {size}" for name, size in named if size)
