"""What keeps one run from continuing another, and what of it is said."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from neoxrun.config.training import DataConfig, LoraConfig, TrainingConfig, ZeroConfig
from neoxrun.training.differences import causes, differences
from support.run_settings import A_FILE, DATA, SCHEDULE, TRAINING, made


@pytest.mark.parametrize(
    "other",
    [
        replace(TRAINING, zero=ZeroConfig(stage=3, offload_optimizer=True)),
        replace(TRAINING, micro_batch_size=1),
        replace(TRAINING, keep=2, save_interval=5, save_iters=(3,), eval_interval=7),
        replace(TRAINING, checkpoint_activations=True, deterministic=True),
    ],
)
def test_what_changes_neither_rows_nor_steps_may_change(other: TrainingConfig) -> None:
    assert differences(made(), made(other)) == []
    assert causes(made(), made(other)) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (made(replace(TRAINING, train_iters=30)), "--steps was 20, is 30"),
        (made(replace(TRAINING, schedule=replace(SCHEDULE, style="linear"))), "--lr-decay-style was cosine, is linear"),
        (made(replace(TRAINING, schedule=replace(SCHEDULE, lr=1e-5))), "--lr was 0.001, is 1e-05"),
        (made(replace(TRAINING, betas=(0.9, 0.95))), "betas of optimizer was 0.9,0.999, is 0.9,0.95"),
        (made(replace(TRAINING, eval_iters=3)), "--eval-iters was 0, is 3"),
        (made(replace(TRAINING, seed=1), replace(DATA, seed=1)), "--seed was 1234, is 1"),
        (made(replace(TRAINING, hidden_dropout=0.1)), "hidden_dropout was 0, is 0.1"),
        (made(data=replace(DATA, split=(0.9, 0.1, 0.0))), "--split was none, is 0.9,0.1,0"),
        (made(data=replace(DATA, packed=False)), "--no-pack was not given, is given"),
        (made(data=replace(DATA, eod_mask_loss=True)), "--eod-mask-loss was not given, is given"),
        (made(lora=LoraConfig()), "--lora was not given, is given"),
        ({**made(), "dtype": dict.fromkeys(("weights", "compute"), "x")}, "--dtype was fp16, is x"),
        ({**made(), "model": {**made()["model"], "rope_theta": 5}}, "rope_theta was none, is 5"),
    ],
)
def test_what_changes_the_run_is_named_as_it_was_given(other: dict[str, Any], said: str) -> None:
    assert causes(made(), made()) == differences(made(), made()) == []
    assert causes(made(), other)[0] == said


def test_every_setting_has_the_name_that_people_give_it() -> None:
    """None is named by its place in settings.json, but those of the model, which have GPT-NeoX's own names."""
    before, other = made(lora=LoraConfig()), made(lora=LoraConfig())
    for part, kind in (("training", TrainingConfig), ("data", DataConfig), ("lora", LoraConfig)):
        for field in fields(kind):
            values = other[part]
            values[field.name] = dict.fromkeys(old, "x") if isinstance(old := values[field.name], dict) else "x"
    for said in differences(before, other):
        assert not said.startswith(("training.", "data.", "lora.", "schedule.", "loss_scale.")), said


def test_what_follows_from_another_difference_is_not_named() -> None:
    schedule = replace(SCHEDULE, lr=1e-3 / 3, min_lr=1e-4 / 3, decay_iters=30)
    longer = made(replace(TRAINING, train_iters=30, schedule=schedule))
    assert len(differences(made(), longer)) == 4
    assert causes(made(), longer) == ["--steps was 20, is 30", "--lr was 0.001, is 0.000333333333333"]
    alone = replace(TRAINING, schedule=replace(SCHEDULE, min_lr=2e-4))
    assert causes(made(), made(alone)) == ["--min-lr was 0.0001, is 0.0002"]


def test_the_length_of_an_evaluation_follows_from_the_rows() -> None:
    shorter = replace(TRAINING, eval_iters=5)
    assert causes(made(), made(shorter, replace(DATA, packed=False))) == ["--no-pack was not given, is given"]
    other = made(shorter, replace(DATA, seq_length=16))
    other["model"] = {**other["model"], "seq_length": 16}
    assert causes(made(), other) == [f"--seq-length was {DATA.seq_length}, is 16"]
    before, after = made(train_files=(A_FILE,)), made(shorter, train_files=(replace(A_FILE, digest="y"),))
    assert causes(before, after) == [f"{A_FILE.name} has changed"]


def test_values_are_shown_so_that_they_can_be_read() -> None:
    lines = made(data=replace(DATA, document_end="\n\n"))
    none = made(data=replace(DATA, document_end=""))
    assert causes(none, lines) == [r"--document-end was none, is \n\n"]


def test_steps_that_follow_from_epochs_are_not_named() -> None:
    longer = replace(TRAINING, train_iters=40)
    assert causes(made(epochs=1), made(longer, epochs=2)) == ["--epochs was 1, is 2"]
    half = replace(longer, train_batch_size=2)
    assert causes(made(epochs=1), made(half, epochs=1)) == ["--batch-size was 4, is 2"]
    assert causes(made(), made(half)) == ["--steps was 20, is 40", "--batch-size was 4, is 2"]
    assert causes(made(epochs=1), made(longer)) == ["--steps was 20, is 40"]
    assert causes(made(epochs=1), made(epochs=2)) == [], "as many steps"
    assert causes(made(epochs=1), made(longer, epochs=1)) == ["--steps was 20, is 40"], "nothing else explains them"


def test_changed_files_are_named() -> None:
    name = A_FILE.name
    before = made(train_files=(A_FILE,))
    assert causes(before, made(train_files=(A_FILE,))) == []
    for other, said in (
        (replace(A_FILE, digest="y"), f"{name} has changed"),
        (replace(A_FILE, digest="y", documents=1), f"{name} had 40 documents of 574 tokens, has 1 document of 574 tok"),
    ):
        (cause,) = causes(before, made(train_files=(other,)))
        assert cause.startswith(said)
        assert causes(made(valid_files=(A_FILE,)), made(valid_files=(other,))) == [cause]
    emptied = made(train_files=(replace(A_FILE, name="/data/b.jsonl"), A_FILE))
    assert causes(emptied, before) == ["/data/b.jsonl had 40 documents of 574 tokens, has no documents"]


def test_changed_files_that_follow_from_a_setting_are_not_named() -> None:
    before = made(train_files=(A_FILE,))
    column = made(data=replace(DATA, column="body"), train_files=(replace(A_FILE, digest="y"),))
    assert causes(before, column) == ["--column was text, is body"]
    moved = DataConfig((Path("/data/b.jsonl"),))
    elsewhere = made(data=moved, train_files=(replace(A_FILE, name="/data/b.jsonl"),))
    assert causes(before, elsewhere) == ["--data was /data/corpus.jsonl, is /data/b.jsonl"]


def test_the_interval_of_evaluations_counts_where_it_decides_their_rows() -> None:
    other = replace(TRAINING, eval_interval=7)
    stream = replace(DATA, eval_stream=True)
    assert causes(made(), made(other)) == []
    assert causes(made(data=stream), made(other, stream)) == ["--eval-interval was 0, is 7"]
    longer = replace(other, train_iters=70)
    assert causes(made(data=stream), made(longer, stream)) == ["--steps was 20, is 70"]
    assert causes(made(), made(data=stream)) == ["evaluation of other rows each time was false, is true"]


def test_micro_batches_count_where_they_change_the_mean_or_the_dropout() -> None:
    for change in ({"loss_average": "gpt-neox"}, {"hidden_dropout": 0.1}):
        before = replace(TRAINING, **change)
        assert causes(made(before), made(replace(before, micro_batch_size=1))) == ["--micro-batch-size was 4, is 1"]
