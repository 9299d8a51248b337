"""Whole runs of a fine-tuning on a split of ranks: torchrun runs this file."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Precision, Settings
from neoxrun.config.training import DataConfig, ScheduleConfig, TrainingConfig
from neoxrun.errors import NeoxrunError
from neoxrun.parallel import mesh as meshes
from neoxrun.planning.plan import Plan
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.run import run_finetuning
from support.paths import shared_folder
from support.plans import planned
from support.ranks import CPU

FIXTURES_TRAIN = shared_folder() / "fixtures-train"
SCHEDULE = ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20)
TRAINING = TrainingConfig(
    train_iters=20,
    train_batch_size=4,
    micro_batch_size=1,
    schedule=SCHEDULE,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    gradient_clipping=2.0,
    eval_iters=4,
)
DATA = DataConfig((FIXTURES_TRAIN / "data" / "corpus_text_document",), split=(50, 50, 0), seq_length=64)


@dataclass(frozen=True)
class RunCase:
    """One run, of the model of fixtures-train unless it is said otherwise."""

    folder: Path
    training: TrainingConfig = TRAINING
    data: DataConfig = DATA
    tp: int = 1
    replicas: int = 1
    dtype: Precision = "fp32"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return load_settings([str(FIXTURES_TRAIN / "tp1" / "config.yml")])

    @property
    def plan(self) -> Plan:
        split = {"tp": self.tp, "pp": 1, "replicas": self.replicas}
        return replace(planned("pythia-14m", "1x80GB"), precisions=precisions_for(self.dtype, "cpu"), **split)

    @property
    def options(self) -> FinetuneOptions:
        return FinetuneOptions(self.training, self.data, None, self.folder, **self.more)


def run(case: RunCase) -> None:
    """On one of the ranks."""
    mesh = meshes.connect_ranks(case.tp, 1, case.replicas, CPU)
    run_finetuning(
        case.settings, mesh, case.plan, case.options, sys.stdout, False, lambda: print("running", flush=True)
    )


def main() -> None:
    case: RunCase = pickle.loads(Path(sys.argv[1]).read_bytes())
    code = 0
    try:
        run(case)
    except NeoxrunError as error:
        code = error.exit_code
        if int(os.environ.get("RANK", "0")) == 0:
            print(error.render(verbose=True), file=sys.stderr)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    from support.training_runs import main as run_rank

    run_rank()
