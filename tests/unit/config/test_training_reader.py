"""GPT-NeoX's keys of training: what they say as GPT-NeoX reads them, what silence means, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neoxrun.config import neox_keys
from neoxrun.config.reader import load_configuration, load_settings
from neoxrun.config.training import LossScaleConfig, ScheduleConfig, TrainingConfig, ZeroConfig
from neoxrun.config.training_batch import BatchRequest
from neoxrun.config.training_keys import REFUSED, SWITCHED, TRAINING
from neoxrun.config.training_reader import read_training
from neoxrun.config.training_request import RunSize, TrainingRequest
from neoxrun.config.yaml_source import ConfigEntry
from neoxrun.errors import ConfigError
from support.configurations import SMALL, write_config
from support.paths import shared_folder

TRAIN = shared_folder() / "fixtures-train"
SIZE = RunSize(steps=100, rows=8, micro=4, checkpoint_activations=False, valid_rows=0)


def read(source: str, *overrides: str, lora: bool = False) -> TrainingRequest:
    settings, options = load_configuration([source], overrides)
    return read_training(options, lora=lora, seed=settings.seed)


def settled(request: TrainingRequest, size: RunSize = SIZE) -> TrainingConfig:
    return request.settle(size, request.zero_for(1, "fp32"))[0]


@pytest.mark.skipif(not TRAIN.is_dir(), reason=f"{TRAIN} is not here")
def test_the_configuration_of_a_run_of_gpt_neox() -> None:
    """Its 20 steps of lr_schedules.json and curves.json follow from these numbers."""
    request = read(str(TRAIN / "tp1" / "config.yml"))
    assert request.batch == BatchRequest(4, 4, 1, where=f"{TRAIN}/tp1/config.yml:34")
    assert request.is_training
    size = RunSize(steps=request.steps or 0, rows=4, micro=4, checkpoint_activations=False, valid_rows=100)
    training, warnings = request.settle(size, request.zero_for(1, "fp32"))
    assert warnings == []
    assert training == TrainingConfig(
        train_iters=20,
        train_batch_size=4,
        micro_batch_size=4,
        schedule=ScheduleConfig(0.001, 0.0001, "cosine", 4.0, 20),
        betas=(0.9, 0.95),
        epsilon=1e-8,
        weight_decay=0.1,
        gradient_clipping=2.0,
        zero=ZeroConfig(0),
        eval_interval=1000,
        eval_iters=4,
        save_interval=1000,
        keep=2,
        seed=1234,
    )


def test_where_the_configuration_is_silent(small: str) -> None:
    request = read(small)
    assert not request.is_training
    assert (request.steps, request.epochs, request.batch) == (None, 1, BatchRequest())
    assert settled(request) == TrainingConfig(
        train_iters=100,
        train_batch_size=8,
        micro_batch_size=4,
        schedule=ScheduleConfig(1e-5, pytest.approx(1e-6), "cosine", 3.0, 100),
        betas=(0.9, 0.999),
        epsilon=1e-8,
        weight_decay=0.01,
        gradient_clipping=1.0,
        zero=ZeroConfig(0),
        eval_interval=10,
        eval_iters=0,
        save_interval=10,
        keep=2,
        seed=1234,
    )
    assert settled(read(small, lora=True)).schedule.lr == 2e-4


@pytest.mark.parametrize("name", sorted(TRAINING))
def test_a_documented_default_is_what_leaving_the_key_out_means(name: str, small: str) -> None:
    stated = read(small, f"{name}={TRAINING[name].default}")
    assert replace(stated, warmup_stated=False) == read(small)


DATA_KEYS = {
    "data_path",
    "eod_mask_loss",
    "finetune",
    "no_load_optim",
    "override_lr_scheduler",
    "save",
    "split",
    "train_data_paths",
    "train_data_weights",
    "use_checkpoint_lr_scheduler",
    "valid_data_paths",
    "valid_data_weights",
}
"""Those that are not ``read_training``'s."""


@pytest.mark.parametrize("name", sorted(TRAINING.keys() - DATA_KEYS))
def test_every_key_is_looked_at(name: str, small: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        read(small, f"{name}=[[{{}}]]")
    assert caught.value.where == f"--set {name}=[[{{}}]]"


def test_the_format_in_which_gradients_are_summed(small: str) -> None:
    for word, fp32 in (("fp32", True), ("bf16", False), ("null", False)):
        assert read(small, f"data_types={{grad_accum_dtype: {word}}}").fp32_gradients == fp32
    for wrong in ("{grad_accum_dtype: fp8}", "{comm_dtype: fp32}", "fp32"):
        with pytest.raises(ConfigError, match="data_types"):
            read(small, f"data_types={wrong}")


def test_every_key_is_one_of_gpt_neox() -> None:
    assert {*TRAINING, *REFUSED, *SWITCHED} <= neox_keys.KNOWN
    assert TRAINING.keys() <= neox_keys.IGNORED
    assert not TRAINING.keys() & {*REFUSED, *SWITCHED}


@pytest.mark.parametrize("name", sorted({*REFUSED, *SWITCHED} & neox_keys.IGNORED))
def test_what_would_change_the_training_is_refused_here_and_ignored_elsewhere(name: str, small: str) -> None:
    override = f"{name}={{enabled: true}}" if name in SWITCHED else f"{name}=7"
    assert load_settings([small], [override]).ignored == (name,)
    with pytest.raises(ConfigError, match=name) as caught:
        read(small, override)
    assert (caught.value.code, caught.value.where) == ("unsupported_option", f"--set {override}")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_values_that_change_nothing_are_accepted(name: str, small: str) -> None:
    for value in REFUSED[name] or (None,):
        word = "null" if value is None else str(value).lower()
        assert read(small, f"{name}={word}") == read(small)


@pytest.mark.parametrize("override", ["train_impl=dpo", "use_bnb_optimizer=true"])
def test_what_a_trained_model_has_no_trace_of_is_refused_here(override: str, small: str) -> None:
    load_settings([small], [override, "pos_emb=rotary"])
    with pytest.raises(ConfigError, match=override.partition("=")[0]) as caught:
        read(small, override, "pos_emb=rotary")
    assert caught.value.code == "unsupported_option"


def test_switches_that_are_off_are_accepted(small: str) -> None:
    assert read(small, *(f"{name}={{enabled: false, more: 1}}" for name in SWITCHED)) == read(small)


def test_file_and_line_of_what_is_refused(tmp_path: Path) -> None:
    lines = "".join(f"{key}: {value}\n" for key, value in SMALL.items())
    path = write_config(tmp_path, lines + "train_iters: 5\noptimizer: {type: SM3, params: {lr: 0.1}}\n")
    with pytest.raises(ConfigError, match=r"optimizer\.type: SM3 is not supported") as caught:
        read(path)
    assert caught.value.where == f"{path}:7"


def test_a_key_that_is_given_twice(tmp_path: Path) -> None:
    """The last value would win without a word; no other command reads it."""
    lines = "".join(f"{key}: {value}\n" for key, value in SMALL.items())
    path = write_config(tmp_path, lines + "warmup: 0.1\nwarmup: 0.2\n")
    load_settings([path])
    with pytest.raises(ConfigError, match="warmup is given twice") as caught:
        read(path)
    assert (caught.value.code, caught.value.where) == ("conflicting_options", f"{path}:7")
    same = write_config(tmp_path, lines + "warmup: 0.1\nwarmup: 0.1\n", "same.yml")
    assert read(same).warmup == 0.1


ADAM = "optimizer={{type: {type}, params: {{{params}}}}}"


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "adam", "cpu_adam"])
def test_adam_is_adamw(kind: str, small: str) -> None:
    request = read(small, ADAM.format(type=kind, params="lr: 6e-4, betas: [0.8, 0.9], eps: 1e-7"))
    assert (request.lr, request.betas, request.epsilon, request.is_training) == (6e-4, (0.8, 0.9), 1e-7, True)


def test_whose_learning_rate_counts(small: str) -> None:
    with_rate = ADAM.format(type="Adam", params="lr: 6e-4")
    assert read(small, "lr=3e-4").lr == 3e-4
    assert read(small, ADAM.format(type="Adam", params="eps: 1e-8")).lr == 1e-3, "GPT-NeoX's default"
    assert read(small, with_rate, "lr=3e-4").lr == 3e-4, "the command line wins"
    settings, options = load_configuration([small], [with_rate])
    in_file = options.over({"lr": ConfigEntry("lr", 3e-4, "a.yml:1", Path())})
    assert read_training(in_file, lora=False, seed=settings.seed).lr == 6e-4, "the optimizer's own, as in GPT-NeoX"


REFUSED_VALUES = {
    "another optimizer": (ADAM.format(type="Lion", params="lr: 1"), "Lion is not supported"),
    "decay of the optimizer": (ADAM.format(type="Adam", params="weight_decay: 0.1"), "does not accept"),
    "unknown of the optimizer": (ADAM.format(type="Adam", params="freeze_step: 4"), r"params\.freeze_step"),
    "Adam with L2": (ADAM.format(type="Adam", params="adam_w_mode: false"), "false is not supported"),
    "three betas": (ADAM.format(type="Adam", params="betas: [0.1, 0.2, 0.3]"), "betas must be two numbers"),
    "beta of 1": (ADAM.format(type="Adam", params="betas: [0.9, 1.0]"), "betas must be two numbers"),
    "a type without a space": ("optimizer={type:SM3}", "optimizer.type:SM3 is not known"),
    "params that are none": ("optimizer={params: 3}", r"optimizer\.params must be a mapping"),
    "a rate of 0": ("lr=0", "lr must be a number greater than 0"),
    "a least rate above the rate": ("min_lr=1", "min_lr 1 is above the learning rate 1e-05"),
    "a warm-up beyond the end": ("warmup=1.5", "warmup must be"),
    "stage 4": ("zero_optimization={stage: 4}", r"zero_optimization\.stage must be"),
    "offload to a disk": (
        "zero_optimization={stage: 3, offload_param: {device: nvme}}",
        r"offload_param\.device: nvme is not supported",
    ),
    "offload without a stage": (
        "zero_optimization={offload_optimizer: {device: cpu}}",
        "offload_optimizer needs stage 1 or more, not 0",
    ),
    "parameters offloaded at stage 2": (
        "zero_optimization={stage: 2, offload_param: {device: cpu}}",
        "offload_param needs stage 3 or more, not 2",
    ),
    "steps for checkpoints": ("extra_save_iters=5", "extra_save_iters must be a list"),
    "extra arguments": ("deepspeed_extra_args={bf16: {enabled: true}, x: 1}", "deepspeed_extra_args"),
    "dropout of 1": ("hidden_dropout=1", "hidden_dropout must be"),
}


@pytest.mark.parametrize("case", REFUSED_VALUES)
def test_refused_values(case: str, small: str) -> None:
    override, words = REFUSED_VALUES[case]
    with pytest.raises(ConfigError, match=words) as caught:
        read(small, override)
    assert caught.value.where == f"--set {override}"


def test_steps_and_epochs(small: str) -> None:
    assert (read(small, "train_epochs=3").steps, read(small, "train_epochs=3").epochs) == (None, 3)
    assert read(small, "train_iters=7").steps == 7
    with pytest.raises(ConfigError, match="train_iters 7 and train_epochs 3") as caught:
        read(small, "train_iters=7", "train_epochs=3")
    assert caught.value.code == "conflicting_options"


def test_what_zero_does_for_replicas_and_precision(small: str) -> None:
    silent = read(small)
    assert [silent.zero_for(1, "fp32").stage, silent.zero_for(2, "fp32").stage, silent.zero_for(1, "bf16").stage] == [
        0,
        1,
        1,
    ]
    none = read(small, "zero_optimization={stage: 0}")
    assert [none.zero_for(2, "fp32").stage, none.zero_for(2, "fp16").stage] == [0, 1]
    both = "zero_optimization={stage: 3, offload_optimizer: {device: cpu}, offload_param: {device: cpu}}"
    assert read(small, both).zero_for(1, "bf16") == ZeroConfig(3, True, True)
    assert read(small, "zero_optimization={stage: 2, cpu_offload: true}").zero == ZeroConfig(2, True)


def test_the_loss_scale_is_that_of_the_block(small: str) -> None:
    """GPT-NeoX's own keys of that name are not passed to DeepSpeed."""
    block = "fp16={enabled: true, loss_scale: 0, initial_scale_power: 12, loss_scale_window: 500, hysteresis: 3}"
    assert read(small, block, "loss_scale=7").loss_scale == LossScaleConfig(0.0, 12, 500, 3)


def test_the_decay(small: str) -> None:
    assert settled(read(small, "lr_decay_fraction=0.5")).schedule.decay_iters == 50
    both = settled(read(small, "lr_decay_fraction=0.5", "lr_decay_iters=80", "warmup=0.2")).schedule
    assert (both.decay_iters, both.warmup_iters) == (80, 16.0)


def test_a_warm_up_shorter_than_a_step(small: str) -> None:
    """GPT-NeoX would use 5 times the rate in the first of 20 steps."""
    twenty = SIZE._replace(steps=20)
    training, warnings = read(small, "warmup=0.01").settle(twenty, ZeroConfig())
    assert training.schedule.warmup_iters == 1.0
    assert len(warnings) == 1
    assert "5 times" in warnings[0]
    training, warnings = read(small).settle(twenty, ZeroConfig())  # 0.6 steps
    assert (training.schedule.warmup_iters, warnings) == (1.0, [])
    training, warnings = read(small, "warmup=0").settle(twenty, ZeroConfig())
    assert (training.schedule.warmup_iters, warnings) == (0.0, [])


def test_schedules_of_another_run_are_warned_about(small: str) -> None:
    _, warnings = read(small, "lr_decay_iters=150000", "warmup=0.01").settle(SIZE, ZeroConfig())
    assert "never reaches its peak: it rises for 1500 steps, and the run has 100" in warnings[0]
    _, warnings = read(small, "lr_decay_iters=50").settle(SIZE, ZeroConfig())
    assert "past step 50 the learning rate rises again" in warnings[0]
    _, warnings = read(small, "lr_decay_iters=50", "lr_decay_style=linear").settle(SIZE, ZeroConfig())
    assert warnings == []


def test_checkpoints(small: str) -> None:
    linear = settled(read(small, "checkpoint_factor=30", "extra_save_iters=[0, 7, 100, 101]"))
    assert (linear.save_interval, linear.save_iters) == (30, (7, 100))
    powers = settled(read(small, "checkpoint_factor=3", "checkpoint_scale=log", "extra_save_iters=[5]"))
    assert (powers.save_interval, powers.save_iters) == (0, (3, 5, 9, 27, 81))


def test_evaluations_follow_from_the_data(small: str) -> None:
    request = read(small)
    assert settled(request, SIZE._replace(valid_rows=50)).eval_iters == 6
    assert settled(request, SIZE._replace(valid_rows=3)).eval_iters == 1
    assert settled(request, SIZE._replace(valid_rows=10**6)).eval_iters == 100
    stated = read(small, "eval_iters=4", "eval_interval=0")
    assert (settled(stated).eval_iters, settled(stated).eval_interval) == (0, 0)
    assert settled(stated, SIZE._replace(valid_rows=3)).eval_iters == 4
