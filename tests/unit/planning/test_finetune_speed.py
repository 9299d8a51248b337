"""The estimated speed of a fine-tuning on a CPU, next to what was measured, and its measurement."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig
from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.planning import finetune_speed
from neoxrun.planning.finetune_memory import FinetuneSizing, Share
from neoxrun.planning.finetune_speed import CpuSpeed, cpu_tokens, measure_cpu, product_flops

CORE = CpuSpeed(1.0e11, threads=1)
"""Of the machine on which the times below were taken, and the one thread that they were taken with."""

MODELS: dict[str, ModelConfig] = {name: load_settings([name]).model for name in ("demo", "pythia-70m")}
VOCABULARY = {"demo": 2048, "pythia-70m": 50304}

# model, tokens of a row, rows of a pass, dropout, LoRA: tokens a second of the processor's time
MEASURED: dict[str, tuple[tuple[str, int, int, bool, bool], float]] = {
    "demo, short rows": (("demo", 32, 1, True, False), 756),
    "demo": (("demo", 128, 8, True, False), 2284),
    "demo, long rows": (("demo", 512, 8, True, False), 973),
    "demo, long rows one by one": (("demo", 512, 1, True, False), 1211),
    "demo, long rows without dropout": (("demo", 512, 1, False, False), 2223),
    "demo without dropout": (("demo", 128, 8, False, False), 3500),
    "an adapter of demo": (("demo", 128, 8, True, True), 2558),
    "70M, short rows": (("pythia-70m", 128, 8, False, False), 217),
    "70M": (("pythia-70m", 512, 2, False, False), 243),
    "70M, long rows": (("pythia-70m", 2048, 1, False, False), 242),
    "an adapter of 70M": (("pythia-70m", 512, 2, False, True), 342),
}


def sizing_of(name: str, seq_length: int, *, lora: bool = False) -> FinetuneSizing:
    adapter = LoraConfig() if lora else None
    return FinetuneSizing(MODELS[name], VOCABULARY[name], "fp32", "cpu", adapter, seq_length)


def tokens(sizing: FinetuneSizing, speed: CpuSpeed = CORE, *, tp: int = 1, replicas: int = 1, **how: Any) -> float:
    share = Share(tp, replicas, ZeroConfig(0), how.pop("micro", 4), False)
    known = {"cores": 2, "hosts": 1, "passes": 1, "dropout": False}
    rate = cpu_tokens(sizing, share, speed, **(known | how))
    assert rate is not None
    return rate


@pytest.mark.parametrize("case", MEASURED)
def test_as_measured(case: str) -> None:
    (name, seq_length, micro, dropout, lora), measured = MEASURED[case]
    passes = 8 if case == "demo, long rows one by one" else 1
    rate = tokens(sizing_of(name, seq_length, lora=lora), micro=micro, passes=passes, dropout=dropout)
    assert 0.7 < rate / measured < 1.6


def test_cores_that_ranks_use() -> None:
    sizing = sizing_of("pythia-70m", 512)
    all_cores = CpuSpeed(1.0e11)
    one, two = tokens(sizing, all_cores, cores=1), tokens(sizing, all_cores, cores=2)
    assert 1.5 * one < two < 2 * one
    assert 1.5 * two < tokens(sizing, all_cores, cores=4) < 2 * two
    assert tokens(sizing, CORE, cores=2) == one
    assert tokens(sizing, CORE, cores=2, tp=2) == tokens(sizing, all_cores, cores=2, tp=2) == two
    assert tokens(sizing, CORE, cores=2, replicas=4) < 1.1 * tokens(sizing, CORE, cores=2, replicas=2)
    assert tokens(sizing, all_cores, cores=2, hosts=2) > 1.5 * two


def test_the_speed_in_16_bits_is_not_known() -> None:
    sizing = replace(sizing_of("demo", 512), precision="bf16")
    share = Share(1, 1, ZeroConfig(1), 8, False)
    assert cpu_tokens(sizing, share, CORE, cores=2, hosts=1, passes=1, dropout=False) is None


def test_a_core_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    speed = measure_cpu()
    assert speed is not None
    assert 1e8 < speed.core_flops < 1e13
    assert speed.threads is None
    assert 1e8 < product_flops() < 1e14
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "5e10\n"))
    assert measure_cpu() == CpuSpeed(5e10, threads=3)


def test_a_core_that_cannot_be_measured_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_speed, "_LONGEST_SECONDS", 0.001)
    assert measure_cpu() is None
    monkeypatch.setattr(finetune_speed.sys, "executable", "/nowhere")
    assert measure_cpu() is None
