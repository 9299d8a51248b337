"""``adapter_config.json``: how PEFT describes a low-rank adapter (Hu et al., 2021). No torch.

Whatever changes what the adapter computes is used here or refused by its name, so that no adapter is half applied.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neoxrun.config.json_file import read_json_object
from neoxrun.config.training import LoraConfig
from neoxrun.errors import CheckpointError

ADAPTER_CONFIG: Final = "adapter_config.json"
"""The name of the file."""

_USED: Final = frozenset(
    {"r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"}
    | {"layers_to_transform", "base_model_name_or_path"}
)
# Keys that change nothing of what a trained adapter computes. The tensors themselves say which layers have one, so that
# the patterns which chose these layers do not matter; nor does the way in which A and B were initialised, but for the
# methods below.
_INERT: Final = frozenset(
    {"peft_type", "peft_version", "task_type", "inference_mode", "revision", "auto_mapping", "bias"}
    | {"init_lora_weights", "layers_pattern", "exclude_modules", "megatron_core", "ensure_weight_tying"}
    | {"qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"}
)
# These change the frozen weights, too: the adapter belongs to weights that are in no file.
_OTHER_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga", "loraga")
_LITERAL: Final = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True)
class AdapterConfig:
    """A low-rank adapter: each of its layers computes ``W + scale B A``.

    Attributes:
        rank: rows of A and columns of B.
        alpha: the scale is ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``.
        rslora: rank-stabilised (Kalajdzievski, 2023).
        dropout: probability in training, of the adapter's input.
        targets: names of the linear layers that have one; None where a pattern chose them.
        layers: numbers, from 0, of the transformer layers that have one; None: all.
        ranks, alphas: those of single layers, by the ends of their names.
        base_model: what the adapter was trained on, as PEFT noted it.
    """

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base_model: str | None = None

    def rank_of(self, module: str) -> int:
        """The rank at a module, such as ``gpt_neox.layers.0.attention.dense``."""
        return int(_matching(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What ``B A`` is multiplied by at a module."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _matching(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    """The value of the first name that ``module`` is or ends with, as PEFT looks them up."""
    for name, value in patterns.items():
        if module == name.lstrip("^") or (not name.startswith("^") and module.endswith(f".{name}")):
            return value
    return otherwise


def read_adapter_config(folder: Path) -> AdapterConfig:
    """What the ``adapter_config.json`` of a folder says.

    Raises:
        CheckpointError: it cannot be read, lacks something, or asks for something that neoxrun does not have.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json_object(path, CheckpointError)
    if str(content.get("peft_type", "LORA")).upper() != "LORA":
        raise _unsupported(path, f"a {content['peft_type']} adapter")
    if (bias := content.get("bias") or "none") != "none":
        raise _unsupported(path, f"bias {bias!r}, which trains biases of the model, too")
    method = content.get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(_OTHER_BASE):
        hint = f"Save it again with PEFT's path_initial_model_for_weight_conversion ({method} changes the model, too)."
        raise _unsupported(path, f"init_lora_weights {method!r}", hint)
    others = sorted(key for key in content.keys() - _USED - _INERT if content[key] not in (None, False, 0, "", [], {}))
    if others:
        raise _unsupported(path, ", ".join(f"{key} {content[key]!r}"[:80] for key in others))
    rank = _number(path, content, "r", None)
    if rank != int(rank) or rank < 1:
        raise _wrong(path, "r", content["r"])
    targets, layers = content.get("target_modules"), content.get("layers_to_transform")
    if isinstance(layers, int):
        layers = [layers]
    if not (layers is None or (isinstance(layers, list) and all(isinstance(layer, int) for layer in layers))):
        raise _wrong(path, "layers_to_transform", layers)
    base = content.get("base_model_name_or_path")
    return AdapterConfig(
        rank=int(rank),
        alpha=_number(path, content, "lora_alpha", 8),
        rslora=bool(content.get("use_rslora")),
        dropout=_number(path, content, "lora_dropout", 0),
        targets=tuple(map(str, targets)) if isinstance(targets, list) else None,
        layers=None if layers is None else tuple(layers),
        ranks=_patterns(path, content, "rank_pattern"),
        alphas=_patterns(path, content, "alpha_pattern"),
        base_model=base if isinstance(base, str) and base else None,
    )


def describe_adapter(lora: LoraConfig, base_model: str | None) -> dict[str, Any]:
    """The content of an ``adapter_config.json`` for an adapter that is trained here.

    Args:
        lora: its settings.
        base_model: the model's folder or name; PEFT itself does not need it.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _number(path: Path, content: Mapping[str, Any], key: str, otherwise: float | None) -> float:
    value = content.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(path, key, value)
    return value


def _patterns(path: Path, content: Mapping[str, Any], key: str) -> dict[str, float]:
    """Values by the ends of names. PEFT takes regular expressions, too, which a file should not bring along."""
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise _wrong(path, key, found)
    for name in found:
        if not _LITERAL.fullmatch(name):
            raise _unsupported(path, f"the regular expression {name!r} in {key}")
    return {name: _number(path, found, name, None) for name in found}


def _wrong(path: Path, key: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{path.name} has {key} {str(value)[:80]!r}, which is not possible",
        code="damaged_file",
        where=str(path),
        hint="Copy or download the adapter again.",
    )


def _unsupported(path: Path, what: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(
        f"the adapter has {what}, which neoxrun does not support",
        code="unsupported_adapter",
        where=str(path),
        hint=hint or "Merge it with PEFT's merge_and_unload, and use the folder that save_pretrained writes then.",
    )
