"""What the ranks of a fine-tuning need to know besides the settings of the model. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neoxrun.checkpoint.neox_run import NeoxRun
from neoxrun.config.training import DataConfig, LoraConfig, TrainingConfig


@dataclass(frozen=True)
class DataFile:
    """A file of the data, as it was when the run was asked for.

    Attributes:
        name: its absolute path, of packed data as it was given.
        documents, tokens: in all of it.
        digest: what tells what is in it from anything else.
    """

    name: str
    documents: int
    tokens: int
    digest: str


@dataclass(frozen=True)
class FinetuneOptions:
    """One run.

    Attributes:
        training: how the model is trained.
        data: on what.
        lora: the adapters that are trained instead of the model; None: the whole model is.
        folder: of the run.
        train_files, valid_files: those of ``data``, as they are now.
        epochs: passes over the data, from which the number of steps follows; None: that was given.
        resume: continue from the last checkpoint in the folder.
        resume_anyway: even if the settings have changed.
        sample_prompts: prompts that are answered at every evaluation.
        wandb: project in Weights & Biases; None: none.
        tensorboard: write TensorBoard's files to the folder.
        random_weights: start from random weights instead of a checkpoint.
        continued: GPT-NeoX's run that is continued, where the folder has no checkpoint yet; None: begin with step 1.
    """

    training: TrainingConfig
    data: DataConfig
    lora: LoraConfig | None
    folder: Path
    train_files: tuple[DataFile, ...] = ()
    valid_files: tuple[DataFile, ...] = ()
    epochs: int | None = None
    resume: bool = False
    resume_anyway: bool = False
    sample_prompts: tuple[str, ...] = ()
    wandb: str | None = None
    tensorboard: bool = False
    random_weights: bool = False
    continued: NeoxRun | None = None
