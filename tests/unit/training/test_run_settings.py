"""What keeps one run from continuing another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.training import DataConfig, LoraConfig, ScheduleConfig, TrainingConfig, ZeroConfig
from neoxrun.training.options import FinetuneOptions
from neoxrun.training.run_settings import describe_run, differences
from support.plans import PUBLISHED, planned

SCHEDULE = ScheduleConfig(lr=1e-3, min_lr=1e-4, style="cosine", warmup_iters=4.0, decay_iters=20)
TRAINING = TrainingConfig(train_iters=20, train_batch_size=4, micro_batch_size=4, schedule=SCHEDULE)
DATA = DataConfig((Path("/data/corpus.jsonl"),))


def made(training: TrainingConfig = TRAINING, data: DataConfig = DATA, lora: LoraConfig | None = None) -> Any:
    options = FinetuneOptions(training, data, lora, Path("/run"))
    return describe_run(PUBLISHED["pythia-14m"][0], planned("pythia-14m", "1x80GB"), options)


def test_settings_survive_their_file() -> None:
    described = made(lora=LoraConfig(rank=4))
    assert json.loads(json.dumps(described)) == described
    assert described["lora"]["rank"] == 4
    assert described["data"]["train"] == ["/data/corpus.jsonl"]
    assert described["training"]["schedule"]["style"] == "cosine"


@pytest.mark.parametrize(
    "other",
    [
        replace(TRAINING, zero=ZeroConfig(stage=3, offload_optimizer=True)),
        replace(TRAINING, micro_batch_size=1),
        replace(TRAINING, keep=2, save_interval=5, save_iters=(3,), eval_interval=7, eval_iters=2),
        replace(TRAINING, checkpoint_activations=True, deterministic=True),
    ],
)
def test_what_changes_neither_rows_nor_steps_may_change(other: TrainingConfig) -> None:
    assert differences(made(), made(other)) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (made(replace(TRAINING, train_iters=30)), "training.train_iters was 20, is 30"),
        (made(replace(TRAINING, schedule=replace(SCHEDULE, style="linear"))), "training.schedule.style was cosine"),
        (made(replace(TRAINING, betas=(0.9, 0.95))), "training.betas was [0.9, 0.999], is [0.9, 0.95]"),
        (made(data=replace(DATA, seed=1)), "data.seed was 1234, is 1"),
        (made(data=replace(DATA, train=(Path("/other.txt"),))), 'data.train was ["/data/corpus.jsonl"], is ["/other'),
        (made(lora=LoraConfig()), "lora.rank was null, is 16"),
    ],
)
def test_what_changes_the_run_is_named(other: Any, said: str) -> None:
    assert differences(made(), made()) == []
    assert differences(made(), other)[0].startswith(said)


def test_what_follows_from_another_difference_can_be_left_out() -> None:
    longer = replace(TRAINING, train_iters=30, schedule=replace(SCHEDULE, lr=1e-3 / 3, min_lr=1e-4 / 3, decay_iters=30))
    assert len(differences(made(), made(longer))) == 4
    assert differences(made(), made(longer), all_of_them=False) == [
        "training.train_iters was 20, is 30",
        "training.schedule.lr was 0.001, is 0.000333333333333",
    ]
    alone = replace(TRAINING, schedule=replace(SCHEDULE, min_lr=2e-4))
    assert differences(made(), made(alone), all_of_them=False) == ["training.schedule.min_lr was 0.0001, is 0.0002"]


def test_micro_batches_count_where_they_change_the_mean_or_the_dropout() -> None:
    for change in ({"loss_average": "gpt-neox"}, {"hidden_dropout": 0.1}):
        before = replace(TRAINING, **change)
        assert differences(made(before), made(replace(before, micro_batch_size=1))) == [
            "training.micro_batch_size was 4, is 1"
        ]
