"""The first look in words."""

from __future__ import annotations

from dataclasses import replace

from neoxrun.commands import finetune_look as look
from neoxrun.config.reader import load_configuration
from neoxrun.config.training import LoraConfig, ScheduleConfig, TrainingConfig, ZeroConfig
from neoxrun.config.training_reader import read_training
from neoxrun.planning.described import parse_devices
from neoxrun.planning.finetune import FinetunePlan, plan_finetune
from neoxrun.planning.request import Requested


def plan(devices: str, lora: LoraConfig | None = None) -> FinetunePlan:
    settings, options = load_configuration(["demo"])
    request = read_training(options, lora=lora is not None, seed=1)
    return plan_finetune(
        settings, parse_devices(devices), Requested(), request, lora, vocab_size=512, vocab_assumed=False
    )


def test_what_is_trained() -> None:
    assert (
        look.describe_training(plan("1xH100"))
        == f"the whole model, {plan('1xH100').sizing.parameters:,} parameters in bf16"
    )
    adapter = plan("1xH100", LoraConfig(rank=4))
    assert look.describe_training(adapter) == (
        f"an adapter of rank 4, {adapter.sizing.trained:,} parameters, of a model of "
        f"{adapter.sizing.parameters:,} in bf16"
    )


def test_how_it_is_divided() -> None:
    found = plan("2xH100")
    assert look.describe_split(found) == (
        "tensor parallel 1 x replicas 2, ZeRO 1; 8 rows of 512 tokens a step, in 1 pass of 4 on each replica"
    )
    again = replace(found, share=replace(found.share, recompute=True, micro=1, zero=ZeroConfig(3, True, True)))
    assert look.describe_split(again) == (
        "tensor parallel 1 x replicas 2, ZeRO 3, optimizer and parameters in host memory, activations computed twice; "
        "8 rows of 512 tokens a step, in 4 passes of 1 on each replica"
    )
    assert look.describe_split(plan("1xH100")).endswith("a step, in 1 pass of 8")


def test_memory_of_each_device() -> None:
    found = plan("1xH100")
    text = look.describe_memory(found)
    assert "of 85.9 GB free on each GPU: weights " in text
    assert "host memory" not in text
    offloaded = replace(found, need=replace(found.need, host=3 * 10**9, optimizer=0))
    assert "3.0 GB of host memory for each (estimated)" in look.describe_memory(offloaded)
    assert "optimizer" not in look.describe_memory(offloaded)


def test_data_and_length() -> None:
    assert look.describe_data(1, 9175, 17, 0) == "1 document of 9,175 tokens, 17 rows"
    assert look.describe_data(1200, 9175, 17, 3) == "1,200 documents of 9,175 tokens, 17 rows; 3 rows to evaluate on"
    assert look.describe_data(1, 1, 1, 1) == "1 document of 1 token, 1 row; 1 row to evaluate on"
    training = TrainingConfig(16, 8, 4, ScheduleConfig(1e-5, 1e-6, "cosine", 1.0, 16))
    assert look.describe_length(training, 134, 64) == (
        "16 steps, 0.96 epochs, 8,192 tokens; learning rate 1e-05, cosine to 1e-06, 1 step of warm-up"
    )
    constant = replace(training, schedule=ScheduleConfig(1e-5, 1e-6, "constant", 2.5, 16))
    assert look.describe_length(constant, 134, 64).endswith("; learning rate 1e-05, 2.5 steps of warm-up")
    whole = replace(training, schedule=ScheduleConfig(1e-5, 1e-6, "linear", 0.0, 16))
    assert look.describe_length(whole, 134, 64).endswith("; learning rate 1e-05, linear to 1e-06")


def test_the_expected_time() -> None:
    """An evaluation takes a third of the time of steps on as many rows, with an adapter half of it."""
    whole, adapter = (replace(plan("1xH100", lora), tokens_per_second=1024.0) for lora in (None, LoraConfig()))
    training = TrainingConfig(30, 6, 3, ScheduleConfig(1e-5, 1e-6, "cosine", 1.0, 30))  # steps of 3 s
    assert look.describe_speed(whole, training) == "about 1,000 tokens/s, 90 s (estimated)"
    assert look.describe_speed(whole, replace(training, train_iters=300)).startswith("about 1,000 tokens/s, 15 minutes")
    assert look.describe_speed(whole, replace(training, train_iters=12_000)).endswith(", 10.0 hours (estimated)")
    often = replace(training, eval_interval=10, eval_iters=2)  # before step 1, after 10, 20 and 30
    assert look.describe_speed(whole, often) == "about 1,000 tokens/s, 98 s with 4 evaluations (estimated)"
    assert look.describe_speed(adapter, often) == "about 1,000 tokens/s, 102 s with 4 evaluations (estimated)"
    twice = replace(often, eval_interval=0)
    assert look.describe_speed(whole, twice) == "about 1,000 tokens/s, 94 s with 2 evaluations (estimated)"
    assert look.describe_speed(whole, replace(often, eval_interval=7)).endswith(" with 6 evaluations (estimated)")
    assert look.describe_speed(whole, often, done=10) == "about 1,000 tokens/s, 64 s with 2 evaluations (estimated)"
    assert look.describe_speed(whole, often, done=30) == "about 1,000 tokens/s, 0 s (estimated)"
    assert look.describe_speed(whole) == "about 1,000 tokens/s (estimated)"
    assert look.describe_speed(plan("1x77GB"), training) is None
