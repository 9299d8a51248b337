"""Small mp_rank files with an optimizer's state, as GPT-NeoX writes them without ZeRO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from neoxrun.checkpoint.neox_run import NeoxRun, find_neox_run
from neoxrun.config.settings import Settings
from neoxrun.config.tensors import local_shape, parameters
from support.checkpoints import TINY

SCHEDULE: dict[str, Any] = {
    "start_lr": 1e-3,
    "warmup_iter": 4.0,
    "num_iters": 7,
    "decay_style": "cosine",
    "end_iter": 20,
    "min_lr": 1e-4,
}
ROWS = 64
TABLE = parameters(TINY, ROWS)
EXEMPT = [key for key in TABLE if key.name.endswith("bias") or "layernorm" in key.name or key.layer == 5]
"""What does not decay."""


def adam_state(rank: int, *, tp: int = 2, fused: bool = False) -> dict[str, Any]:
    """The state of one rank after 7 steps: the means of the parameter with number ``n`` are ``n`` and ``n + 0.5``.

    What is divided has the rank's number in the first position. Fused optimizers count steps for each group.
    """
    keys = [key for key in TABLE if key not in EXEMPT] + EXEMPT
    state = {}
    for number, key in enumerate(keys):
        first = torch.full(local_shape(key.name, TABLE[key], tp), float(number))
        if TABLE[key].dim is not None:
            first.view(-1)[0] = rank
        state[number] = {"exp_avg": first, "exp_avg_sq": first + 0.5} | ({} if fused else {"step": torch.tensor(7.0)})
    split = len(keys) - len(EXEMPT)
    numbers = list(range(len(keys)))
    counted = {"step": 7} if fused else {}
    adam = {"lr": 1e-3, "betas": (0.8, 0.9), "eps": 1e-6} | counted
    groups = [
        {"params": numbers[:split], "weight_decay": 0.2} | adam,
        {"params": numbers[split:], "weight_decay": 0.0} | adam,
    ]
    return {"state": state, "param_groups": groups}


def found_run(settings: Settings) -> NeoxRun:
    """The run in the checkpoint of a configuration, which has one."""
    run = find_neox_run(settings)
    assert run is not None
    return run


def save_states(
    step: Path,
    *,
    optimizer: object = "adam",
    schedule: object = SCHEDULE,
    iteration: int | None = 7,
    more: Mapping[str, Any] | None = None,
    dp_world_size: int = 1,
) -> None:
    """Write the files of two ranks into a checkpoint's folder."""
    for rank in range(2):
        states = {
            "module": None,
            "optimizer": adam_state(rank) if optimizer == "adam" else optimizer,
            "lr_scheduler": schedule,
            "dp_world_size": dp_world_size,
            "global_steps": 9,
            "skipped_steps": 2,
            "iteration": iteration,
        }
        torch.save(states | dict(more or {}), step / f"mp_rank_{rank:02d}_model_states.pt")
