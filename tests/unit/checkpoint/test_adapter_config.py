"""What an adapter's configuration means, and what of it is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from neoxrun.checkpoint.adapter_config import ADAPTER_CONFIG, describe_adapter, read_adapter_config
from neoxrun.config.training import LoraConfig
from neoxrun.errors import CheckpointError

NAME = "gpt_neox.layers.3.attention.dense"


def written(folder: Path, **content: Any) -> Path:
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 6} | content))
    return folder


@pytest.mark.parametrize(
    ("content", "rank", "scale"),
    [
        ({}, 4, 1.5),
        ({"lora_alpha": 0.5}, 4, 0.125),
        ({"use_rslora": True}, 4, 3.0),
        ({"rank_pattern": {"attention.dense": 2}}, 2, 3.0),
        ({"rank_pattern": {"tention.dense": 2}}, 4, 1.5),
        ({"rank_pattern": {"^attention.dense": 2}}, 4, 1.5),
        ({"rank_pattern": {f"^{NAME}": 2}, "use_rslora": True}, 2, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"layers.3.attention.dense": 8, "dense": 1}}, 4, 2.0),
        ({"alpha_pattern": {"layers.2.attention.dense": 8}}, 4, 1.5),
    ],
)
def test_rank_and_scale_of_a_layer(content: dict[str, Any], rank: int, scale: float, tmp_path: Path) -> None:
    config = read_adapter_config(written(tmp_path, **content))
    assert (config.rank_of(NAME), config.scale_of(NAME)) == (rank, pytest.approx(scale))


def test_what_peft_writes_by_default_is_accepted(tmp_path: Path) -> None:
    """Every key of peft 0.21, most of which are off."""
    off = {
        **dict.fromkeys(
            ["alora_invocation_tokens", "arrow_config", "auto_mapping", "modules_to_save", "velora_config"]
        ),
        **dict.fromkeys(["layer_replication", "layers_pattern", "megatron_config", "trainable_token_indices"]),
        **dict.fromkeys(["fan_in_fan_out", "use_dora", "use_qalora", "lora_bias", "ensure_weight_tying"], False),
        "loftq_config": {},
        "qalora_group_size": 16,
        "megatron_core": "megatron.core",
        "init_lora_weights": True,
        "bias": "none",
        "target_modules": ["dense"],
        "layers_to_transform": 1,
        "base_model_name_or_path": "owner/model",
        "lora_dropout": 0.1,
    }
    config = read_adapter_config(written(tmp_path, **off))
    assert (config.targets, config.layers, config.base_model, config.dropout) == (("dense",), (1,), "owner/model", 0.1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"peft_type": "IA3"}, "a IA3 adapter"),
        ({"use_dora": True}, "use_dora True"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
        ({"modules_to_save": ["embed_out"]}, "modules_to_save ['embed_out']"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"rank_pattern": {r".*\.dense": 2}}, "the regular expression"),
        ({"of_a_later_version": 1}, "of_a_later_version 1"),
    ],
)
def test_what_changes_the_result_and_is_not_supported_is_refused(
    content: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="does not support") as caught:
        read_adapter_config(written(tmp_path, **content))
    assert says in caught.value.message
    assert caught.value.code == "unsupported_adapter"
    assert caught.value.where == str(tmp_path / ADAPTER_CONFIG)


@pytest.mark.parametrize(
    "content",
    [{"r": 0}, {"r": 2.5}, {"r": "4"}, {"r": True}, {"lora_alpha": None}, {"rank_pattern": [1]}, {"r": float("inf")}],
)
def test_values_that_are_not_possible(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not possible") as caught:
        read_adapter_config(written(tmp_path, **content))
    assert caught.value.code == "damaged_file"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    lora = LoraConfig(rank=3, alpha=4.5, dropout=0.25, targets=("dense",))
    config = read_adapter_config(written(tmp_path, **describe_adapter(lora, "models/base")))
    assert (config.rank, config.alpha, config.dropout) == (3, 4.5, 0.25)
    assert (config.targets, config.base_model) == (("dense",), "models/base")
