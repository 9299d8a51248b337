"""Checkpoints as GPT-NeoX leaves them with ZeRO: DeepSpeed's own files, written next to those of a run of ours.

Run by torchrun, as ``training_runs``, it makes the runs of its cases, and DeepSpeed saves whenever they do.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from neoxrun.config.tensors import TensorKey
from neoxrun.config.training import TrainingConfig
from neoxrun.training import deepspeed_engine
from neoxrun.training.loop import Loop


def neox_folder(run: Path) -> Path:
    """Where DeepSpeed saves what the run in this folder does."""
    return run.with_name(f"{run.name}-neox")


def neox_name(key: TensorKey) -> str:
    """A parameter's name in GPT-NeoX's network."""
    name = key.name.replace("dense_h_to_4h", "linear1").replace("dense_4h_to_h", "linear2")
    return f"{key.layer}.{name}"


def save_with_deepspeed(loop: Loop) -> None:
    """What GPT-NeoX does (megatron/checkpointing.py, save_ds_checkpoint), and the layer files of its pipeline."""
    step, engine = loop._done, loop._trainer.engine
    saved = loop._checkpoints.path_of(step)
    folder, tag = neox_folder(saved.parent), saved.name
    parameters = engine.model.stage.keyed_parameters()
    engine._engine.param_names = {parameter: neox_name(key) for key, parameter in parameters.items()}
    schedule = loop._training.schedule
    states = {
        "start_lr": schedule.lr,
        "warmup_iter": schedule.warmup_iters,
        "num_iters": step,
        "decay_style": schedule.style,
        "end_iter": schedule.decay_iters,
        "min_lr": schedule.min_lr,
    }
    engine._engine.save_checkpoint(folder, tag, client_state={"iteration": step, "lr_scheduler": states, "args": {}})
    if dist.get_rank() == 0:
        for path in saved.glob("layer_*"):
            shutil.copy(path, folder / tag)


def main() -> None:
    from support import training_runs

    save, config = Loop._save, deepspeed_engine._deepspeed_config

    def save_twice(loop: Loop) -> None:
        save(loop)
        if loop._done:
            save_with_deepspeed(loop)

    def configured(training: TrainingConfig, *others: Any) -> dict[str, Any]:
        made = config(training, *others)
        if training.zero.stage == 2:
            made["zero_optimization"]["elastic_checkpoint"] = True  # another form of the files
        return made

    Loop._save = save_twice  # type: ignore[method-assign]
    deepspeed_engine._deepspeed_config = configured
    training_runs.main()


if __name__ == "__main__":
    main()
