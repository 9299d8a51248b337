"""Plans of fine-tunings: published models on common machines, what flags force, and refusals whose hints fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from neoxrun.config.reader import load_configuration
from neoxrun.config.settings import Precision, Settings
from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.config.training_reader import read_training
from neoxrun.errors import ConfigError, UsageError
from neoxrun.planning.described import parse_devices
from neoxrun.planning.devices import Device
from neoxrun.planning.finetune import FinetunePlan, plan_finetune, zero_words
from neoxrun.planning.request import Requested
from support.plans import PUBLISHED

LORA = LoraConfig()


def found(
    name: str,
    devices: str,
    *keys: str,
    lora: LoraConfig | None = None,
    precision: Precision | None = None,
    kind: Any = "cuda",
    **requested: Any,
) -> FinetunePlan:
    """The plan of a published model; ``keys`` are those of its configuration."""
    settings = PUBLISHED[name][0]
    if precision is not None:
        settings = replace(settings, precision=precision)
    return planned(settings, parse_devices(devices, kind), *keys, lora=lora, **requested)


def planned(
    settings: Settings, devices: list[Device], *keys: str, lora: LoraConfig | None = None, **requested: Any
) -> FinetunePlan:
    _, options = load_configuration(["demo"], keys)
    return plan_finetune(
        settings,
        devices,
        Requested(**requested),
        read_training(options, lora=lora is not None, seed=1),
        lora,
        vocab_size=50432,
        vocab_assumed=False,
    )


# model, devices, LoRA: tp x replicas, ZeRO stage, rows of a pass, activations computed twice
PLANS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "an adapter of 20B on one card": (("20B", "1xH100", LORA), (1, 1, 1, 1, False)),
    "the whole 20B on eight": (("20B", "8xH100", None), (4, 2, 1, 2, False)),
    "an adapter of 20B on eight": (("20B", "8xH100", LORA), (1, 8, 1, 1, False)),
    "the whole 1.4B on two": (("pythia-1.4b", "2xH100", None), (1, 2, 1, 4, False)),
    "the whole 1.4B on a small card": (("pythia-1.4b", "1x40GB", None), (1, 1, 1, 2, False)),
    "an adapter of 2.8B on a small card": (("pythia-2.8b", "1x12GB", LORA), (1, 1, 1, 2, True)),
    "160M on a T4": (("pythia-160m", "1xT4", None), (1, 1, 1, 4, False)),
}


@pytest.mark.parametrize("case", PLANS)
def test_published_models(case: str) -> None:
    (name, devices, lora), (tp, replicas, stage, micro, recompute) = PLANS[case]
    plan = found(name, devices, lora=lora)
    share = plan.share
    assert (share.tp, share.replicas, share.zero.stage, share.micro, share.recompute) == (
        tp,
        replicas,
        stage,
        micro,
        recompute,
    )
    assert plan.need.total <= plan.plan.devices[0].free_bytes * 0.95
    assert (plan.plan.tp, plan.plan.pp, plan.plan.replicas) == (tp, 1, replicas)
    assert plan.plan.gpus == tuple(range(tp * replicas))
    assert plan.batch.rows == 8


def test_replicas_are_as_many_as_can_share_a_step() -> None:
    assert found("pythia-160m", "8xH100", "train_batch_size=12").share.replicas == 6
    assert found("pythia-160m", "8xH100", "train_batch_size=7").share.replicas == 7
    with pytest.raises(ConfigError, match="12 cannot be shared equally by 8 replicas"):
        found("pythia-160m", "8xH100", "train_batch_size=12", replicas=8)


def test_what_flags_force() -> None:
    share = found("pythia-160m", "8xH100", tp=2, replicas=2).share
    assert (share.tp, share.replicas) == (2, 2)
    share = found("pythia-160m", "8xH100", tp=4).share
    assert (share.tp, share.replicas) == (4, 2)
    started = found("pythia-160m", "8xH100", world_size=4).share
    assert started.tp * started.replicas == 4


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ({"pp": 2}, "finetune does not divide a model into pipeline stages"),
        ({"tp": 5}, "cannot be divided into --tp 5 equal parts"),
        ({"tp": 4, "replicas": 4}, "--tp 4 --replicas 4 is not possible on 8 GPUs"),
        ({"world_size": 3, "replicas": 2}, "on the 3 ranks that were started"),
    ],
)
def test_impossible_splits(requested: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        found("pythia-160m", "8xH100", **requested)
    assert caught.value.code == "impossible_split"


def test_a_pipeline_of_the_configuration_is_planned_again() -> None:
    notes = found("20B", "8xH100", lora=LORA).notes
    assert "pipe_parallel_size: 4 -> 1, as finetune has no pipeline stages" in notes
    assert "model_parallel_size: 2 -> 1, as the model fits without" in notes
    assert found("20B", "8xH100", lora=LORA, pp=1, tp=2).notes == notes[:1]


def test_precisions() -> None:
    """Of a configuration that trains, its own; else bf16 where a GPU has it, and fp32 on a CPU."""
    optimizer = "optimizer={type: Adam, params: {lr: 0.1}}"

    def precision(devices: str, *keys: str, **more: Any) -> str:
        return found("pythia-160m", devices, *keys, **more).sizing.precision

    assert precision("1xA100-80GB") == "bf16"
    assert precision("1xT4") == "fp16"
    assert precision("1xA100-80GB", optimizer) == "fp16"
    assert precision("1xA100-80GB", optimizer, precision="fp32") == "fp32"
    assert precision("1xA100-80GB", optimizer, dtype="bf16") == "bf16"
    assert precision("32GB", kind="cpu") == "fp32"
    on_cpu = found("pythia-160m", "32GB", optimizer, kind="cpu")
    assert on_cpu.sizing.precision == "fp32"
    assert "precision: fp16 -> fp32, in which a CPU trains; --dtype fp16 keeps it" in on_cpu.notes


def test_sixteen_bits_need_stage_1() -> None:
    plan = found("pythia-160m", "1xH100", "zero_optimization={stage: 0}")
    assert plan.share.zero == ZeroConfig(1)
    assert "zero_optimization: stage 0 -> 1, which bf16 needs" in plan.notes


def test_on_the_cpu_there_is_one_rank_unless_flags_say_otherwise() -> None:
    assert found("20B", "512GB", kind="cpu", lora=LORA).plan.world_size == 1
    two = found("pythia-160m", "64GB", kind="cpu", tp=2, replicas=2)
    assert (two.plan.tp, two.plan.replicas, two.plan.gpus) == (2, 2, ())
    assert two.plan.devices[0].free_bytes == 16 * 2**30
    assert two.tokens_per_second is None


def test_two_hosts() -> None:
    plan = found("pythia-160m", "4xH100", nnodes=2)
    assert (plan.share.replicas, plan.plan.nnodes, plan.plan.gpus) == (8, 2, (0, 1, 2, 3))


def test_a_smaller_gpu_counts_where_it_is_used() -> None:
    plan = found("pythia-160m", "1x80GB,1x24GB")
    assert plan.plan.devices[0].free_bytes == 24 * 2**30


REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "whole 20B on one card": (("20B", "1xH100"), {}),
    "whole 20B on two": (("20B", "2xH100"), {}),
    "an adapter of 20B on a small card": (("20B", "1x24GB"), {"lora": LORA}),
    "passes that are too large": (("pythia-1.4b", "1x32GB", "train_micro_batch_size_per_gpu=8"), {}),
    "kept activations": (("pythia-2.8b", "1x12GB", "checkpoint_activations=false"), {"lora": LORA}),
    "fp32": (("pythia-2.8b", "1x32GB"), {"dtype": "fp32"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_way_of_a_refusal_fits(case: str) -> None:
    arguments, more = REFUSED[case]
    name, devices, *keys = arguments
    with pytest.raises(UsageError, match="does not fit on") as caught:
        found(name, devices, *keys, **more)
    assert caught.value.code == "does_not_fit"
    assert caught.value.hint is not None
    ways = re.fullmatch(r"What would fit: (.+)\.", caught.value.hint)
    assert ways is not None
    for way in ways[1].split(", or "):
        assert as_words_say(way, name, devices, keys, more).need.total > 0


def as_words_say(way: str, name: str, devices: str, keys: list[str], more: dict[str, Any]) -> FinetunePlan:
    """The plan with the flags of a hint."""
    keys, more = list(keys), dict(more)
    if match := re.search(r"(\d+) such GPUs", way):
        return found(name, f"{match[1]}{devices[devices.index('x') :]}", *keys, **more)
    zero: dict[str, Any] = {"stage": 1}
    if match := re.search(r"--zero-stage (\d)", way):
        zero["stage"] = int(match[1])
    if match := re.search("--offload (optimizer|all)", way):
        zero["offload_optimizer"] = {"device": "cpu"}
        if match[1] == "all":
            zero["offload_param"] = {"device": "cpu"}
    keys.append(f"zero_optimization={zero}")
    if "--micro-batch-size 1" in way:
        keys.append("train_micro_batch_size_per_gpu=1")
    if "checkpoint_activations=true" in way:
        keys.append("checkpoint_activations=true")
    if "--lora" in way:
        more["lora"] = LORA
    if "--dtype bf16" in way:
        more["dtype"] = "bf16"
    if match := re.search(r"--seq-length (\d+)", way):
        settings = PUBLISHED[name][0]
        shorter = replace(settings, model=replace(settings.model, seq_length=int(match[1])))
        return planned(shorter, parse_devices(devices), *keys, **more)
    return found(name, devices, *keys, **more)


def test_a_lower_rank_is_a_way() -> None:
    with pytest.raises(UsageError, match="training an adapter does not fit") as caught:
        found("pythia-160m", "16GB", kind="cpu", lora=LoraConfig(rank=100_000))
    assert "--lora-rank 16" in str(caught.value.hint)


def test_what_no_flag_helps() -> None:
    with pytest.raises(UsageError, match="does not fit on 1 rank") as caught:
        found("20B", "16GB", kind="cpu")
    assert caught.value.hint == "Use a smaller model, or larger devices."
    with pytest.raises(UsageError, match="does not fit on 64 ranks") as caught:
        found("pythia-160m", "16GB", kind="cpu", tp=1, replicas=64, lora=LORA)
    assert caught.value.hint == "Use fewer ranks (--tp, --replicas): they share the host's memory."


def test_zero_in_words() -> None:
    assert zero_words(ZeroConfig(1)) == "ZeRO 1"
    assert zero_words(ZeroConfig(3, True, True)) == "ZeRO 3, optimizer and parameters in host memory"
