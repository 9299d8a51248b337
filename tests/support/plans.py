"""Published models and their plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import GenerationConfig, ModelConfig, Precision, Settings, TokenizerConfig
from neoxrun.planning.described import parse_devices
from neoxrun.planning.devices import Device
from neoxrun.planning.plan import Plan
from neoxrun.planning.planner import make_plan, vocab_size_for_planning
from neoxrun.planning.request import Requested


def settings_for(
    layers: int, hidden: int, heads: int, tp: int = 1, pp: int = 1, precision: Precision = "fp16", **options: Any
) -> Settings:
    defaults = {
        "intermediate_size": 4 * hidden,
        "seq_length": 2048,
        "max_position_embeddings": 2048,
        "pos_emb": "rotary",
        "rotary_pct": 0.25,
        "gpt_j_residual": True,
        "tie_embeddings": False,
    }
    model = ModelConfig(layers, hidden, heads, model_parallel_size=tp, pipe_parallel_size=pp, **(defaults | options))
    return Settings(
        model=model,
        tokenizer=TokenizerConfig("HFTokenizer", None, None),
        checkpoint=None,
        iteration=None,
        precision=precision,
        generation=GenerationConfig(SamplingParams()),
        seed=1234,
        sources=(),
    )


# Parameter counts as published (GPT-NeoX-20B's paper, Pythia's README).
PUBLISHED = {
    "20B": (settings_for(44, 6144, 64, tp=2, pp=4), 20_554_567_680),
    "pythia-14m": (settings_for(6, 128, 4), 14_067_712),
    "pythia-31m": (settings_for(6, 256, 8), 30_494_720),
    "pythia-70m": (settings_for(6, 512, 8), 70_426_624),
    "pythia-160m": (settings_for(12, 768, 12), 162_322_944),
    "pythia-410m": (settings_for(24, 1024, 16), 405_334_016),
    "pythia-1b": (settings_for(16, 2048, 8), 1_011_781_632),
    "pythia-1.4b": (settings_for(24, 2048, 16), 1_414_647_808),
    "pythia-2.8b": (settings_for(32, 2560, 32), 2_775_208_960),
    "pythia-6.9b": (settings_for(32, 4096, 32, tp=2), 6_857_302_016),
    "pythia-12b": (settings_for(36, 5120, 40, tp=4), 11_846_072_320),
}
OPTIONS = [
    {},
    {"norm": "rmsnorm"},
    {"tie_embeddings": True},
    {"pos_emb": "learned", "max_position_embeddings": 40},
    {"gpt_j_tied": True},
    {"gpt_j_residual": False, "gpt_j_tied": True},
    {"use_bias_in_attn_linear": False},
    {"use_bias_in_mlp": False, "intermediate_size": 96},
]


def gpus(count: int, name: str, gigabytes: int) -> list[Device]:
    return [Device("cuda", index, name, gigabytes * 10**9, gigabytes * 10**9) for index in range(count)]


def planned(name: str, devices: str | list[Device], kind: str = "cuda", cores: int = 0, **requested: object) -> Plan:
    settings = PUBLISHED[name][0]
    here = parse_devices(devices, kind) if isinstance(devices, str) else devices
    here = [replace(device, cores=cores) for device in here]
    vocab_size, assumed = vocab_size_for_planning(settings)
    return make_plan(settings, here, Requested(**requested), vocab_size=vocab_size, vocab_assumed=assumed)
