"""Flags of a training over a configuration, and adapters."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from neoxrun.cli import build_parser
from neoxrun.commands.training_args import over_configuration, training_configuration, training_from_args
from neoxrun.config.data_reader import read_data
from neoxrun.config.training import LoraConfig, TrainingConfig, ZeroConfig
from neoxrun.config.training_request import RunSize, TrainingRequest
from neoxrun.errors import ConfigError, UsageError


def parsed(*words: str) -> argparse.Namespace:
    return build_parser(["finetune"]).parse_args(["finetune", "demo", *words])


def request(*words: str) -> tuple[TrainingRequest, LoraConfig | None]:
    args = parsed(*words)
    settings, options = training_configuration(args)
    return training_from_args(args, settings, options)


def settled(*words: str) -> TrainingConfig:
    asked, _ = request(*words)
    size = RunSize(asked.steps or 100, 8, 2, checkpoint_activations=False, valid_rows=80)
    return asked.settle(size, asked.zero_for(1, "fp32"))[0]


FLAGS: dict[str, Any] = {
    "--lr 0.5": lambda found: found.schedule.lr == 0.5,
    "--lr 0.5 --min-lr 0.25": lambda found: found.schedule.min_lr == 0.25,
    "--lr-decay-style linear": lambda found: found.schedule.style == "linear",
    "--warmup 0.5": lambda found: found.schedule.warmup_iters == 50,
    "--weight-decay 0": lambda found: found.weight_decay == 0,
    "--gradient-clipping 0": lambda found: found.gradient_clipping == 0,
    "--loss-average gpt-neox": lambda found: found.loss_average == "gpt-neox",
    "--deterministic": lambda found: found.deterministic,
    "--ignore-spikes": lambda found: not found.stop_at_spike,
    "--seed 7": lambda found: found.seed == 7,
    "--eval-interval 0": lambda found: found.eval_interval == 0,
    "--eval-iters 3": lambda found: found.eval_iters == 3,
    "--save-interval 7": lambda found: found.save_interval == 7,
    "--keep 5": lambda found: found.keep == 5,
    "--steps 9": lambda found: found.train_iters == 9,
    "--zero-stage 2": lambda found: found.zero == ZeroConfig(2),
    "--offload optimizer": lambda found: found.zero == ZeroConfig(1, True),
    "--offload all": lambda found: found.zero == ZeroConfig(3, True, True),
}
AGAINST = (
    "optimizer={type: Adam, params: {lr: 0.1, betas: [0.5, 0.5]}}",
    "min_lr=0.01",
    "lr_decay_style=constant",
    "warmup=0.1",
    "weight_decay=0.3",
    "gradient_clipping=0.3",
    "seed=3",
    "eval_interval=2",
    "eval_iters=2",
    "checkpoint_factor=2",
    "checkpoint_scale=log",
    "keep_last_n_checkpoints=1",
    "train_epochs=4",
    "zero_optimization={stage: 0}",
)


@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_wins_over_the_configuration(flags: str) -> None:
    over = [word for key in AGAINST for word in ("--set", key)]
    assert not FLAGS[flags](settled(*over))
    assert FLAGS[flags](settled(*over, *flags.split()))


def test_sizes() -> None:
    asked, _ = request("--batch-size", "12", "--micro-batch-size", "3", "--set", "gradient_accumulation_steps=7")
    assert (asked.batch.rows, asked.batch.micro, asked.batch.accumulation) == (12, 3, 7)
    assert asked.batch.micro_fixed
    assert request("--gradient-accumulation-steps", "2")[0].batch.accumulation == 2
    assert request("--checkpoint-activations")[0].checkpoint_activations is True
    assert request()[0].checkpoint_activations is None
    settings, _ = training_configuration(parsed("--seq-length", "128"))
    assert settings.model.seq_length == 128


def test_epochs_replace_steps() -> None:
    assert request("--set", "train_iters=7", "--epochs", "3")[0].steps is None
    assert request("--set", "train_iters=7", "--epochs", "3")[0].epochs == 3
    with pytest.raises(UsageError, match="not allowed with argument"):
        parsed("--epochs", "3", "--steps", "3")


def test_data_of_the_command_line_replaces_that_of_the_configuration(tmp_path: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    keys = ("--set", f"data_path={tmp_path}/b", "--set", "split=1,1", "--set", "valid_data_paths=[x]")
    args = parsed("--data", f"{tmp_path}/a", *keys)
    settings, options = training_configuration(args)
    data = read_data(options, settings, packed=True, column="text", document_end="")
    assert (data.train, data.valid) == ((tmp_path / "a",), ())


def test_adapters() -> None:
    assert request()[1] is None
    assert request("--lora")[1] == LoraConfig()
    assert request("--lora", "--lora-rank", "4")[1] == LoraConfig(4, 8.0)
    words = [
        "--lora",
        "--lora-alpha",
        "3",
        "--lora-dropout",
        "0.1",
        "--lora-targets",
        "dense_4h_to_h",
        "query_key_value",
    ]
    assert request(*words)[1] == LoraConfig(16, 3.0, 0.1, ("query_key_value", "dense_4h_to_h"))
    assert request("--lora")[0].lr == 2e-4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--lora-rank", "4"], "missing_option"),
        (["--lora", "--lora-alpha", "0"], "invalid_value"),
        (["--lora", "--lora-alpha", "nan"], "invalid_value"),
        (["--lora", "--lora-dropout", "1"], "invalid_value"),
    ],
)
def test_impossible_adapters(words: list[str], code: str) -> None:
    with pytest.raises(UsageError, match="--lora") as caught:
        request(*words)
    assert caught.value.code == code


def test_an_error_names_the_flag() -> None:
    for words, flag in ((["--lr", "-1"], "--lr"), (["--warmup", "2"], "--warmup"), (["--min-lr", "1"], "--min-lr")):
        with pytest.raises(ConfigError) as caught:
            request(*words)
        assert caught.value.where == flag


def test_nothing_is_set_without_flags() -> None:
    args = parsed()
    _, options = training_configuration(args)
    assert over_configuration(args, options).names() == options.names()
