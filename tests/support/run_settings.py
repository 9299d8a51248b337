"""The settings of runs, for tests of what tells one from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neoxrun.config.training import DataConfig, LoraConfig, ScheduleConfig, TrainingConfig
from neoxrun.training.options import DataFile, FinetuneOptions
from neoxrun.training.run_settings import describe_run
from support.plans import PUBLISHED, planned

SCHEDULE = ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20)
TRAINING = TrainingConfig(train_iters=20, train_batch_size=4, micro_batch_size=4, schedule=SCHEDULE)
DATA = DataConfig((Path("/data/corpus.jsonl"),))
A_FILE = DataFile("/data/corpus.jsonl", 40, 574, "x")


def made(
    training: TrainingConfig = TRAINING, data: DataConfig = DATA, lora: LoraConfig | None = None, **more: Any
) -> dict[str, Any]:
    """As ``describe_run`` gives them, of a run of Pythia-14M."""
    options = FinetuneOptions(training, data, lora, Path("/run"), **more)
    return describe_run(PUBLISHED["pythia-14m"][0], planned("pythia-14m", "1x80GB"), options)
