"""A network written as a configuration and read again is the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from neoxrun.config.reader import load_settings
from neoxrun.config.rope import read_rope_scaling
from neoxrun.config.settings import ModelConfig, RopeScaling
from neoxrun.config.shipped import shipped_names
from neoxrun.conversion.configurations import (
    config_json,
    neox_options,
    refuse_for_hugging_face,
    vocabulary_divisor,
    yaml_text,
)
from neoxrun.errors import ConfigError
from support.checkpoints import tiny

CHANGES: list[dict[str, Any]] = [
    {},
    {"pos_emb": "learned", "rotary_pct": 1.0, "max_position_embeddings": 16},
    {"pos_emb": "none", "rotary_pct": 1.0, "norm": "rmsnorm", "norm_epsilon": 1e-8},
    {"gpt_j_residual": False, "gelu": "erf", "tie_embeddings": True},
    {"gpt_j_tied": True, "intermediate_size": 48},
    {"use_bias_in_attn_linear": False, "use_bias_in_mlp": False},
    {"rope_scaling": RopeScaling("linear", 2.0, 8)},
    {"rope_scaling": RopeScaling("yarn", 4.0, 4, beta_fast=16.0, attention_factor=1.25, truncate=False)},
    {"rotary_emb_base": 1234.5, "rotary_legacy_fp16": True, "norm_epsilon": 1e-12, "model_parallel_size": 2},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_yaml_is_read_as_what_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny(**changes)
    path = tmp_path / "model.yml"
    path.write_text(yaml_text(neox_options(config, "bf16"), "a comment"))
    settings = load_settings([str(path)])
    assert settings.model == config
    assert settings.precision == "bf16"


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configurations_are_read_as_what_was_written(tmp_path: Path, name: str) -> None:
    config = load_settings([name]).model
    path = tmp_path / "model.yml"
    path.write_text(yaml_text(neox_options(config, "fp16")))
    assert load_settings([str(path)]).model == config


def test_numbers_are_numbers_to_plain_yaml() -> None:
    """GPT-NeoX reads with PyYAML, to which 1e-05 is a text."""
    assert yaml.safe_load(yaml_text({"a": 1e-05, "b": 2.5e-07, "c": 0.25, "d": "one", "e": False})) == {
        "a": 1e-05,
        "b": 2.5e-07,
        "c": 0.25,
        "d": "one",
        "e": False,
    }


def test_the_vocabulary_is_padded_to_the_rows_there_are() -> None:
    for rows, tp, size, configured in (
        (50432, 2, 50277, 128),
        (50304, 4, 50277, 128),
        (64, 2, 60, 7),
        (64, 2, None, 9),
    ):
        divisor = vocabulary_divisor(rows, tp, size, configured)
        config = tiny(make_vocab_size_divisible_by=divisor, model_parallel_size=tp)
        assert config.padded_vocab_size(size or rows) == rows
    assert vocabulary_divisor(50432, 2, 50277, 64) == 128
    assert vocabulary_divisor(50304, 1, 50277, 64) == 64, "the configured one is kept where it gives the rows"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pos_emb": "learned"}, "pos_emb"),
        ({"norm": "rmsnorm"}, "norm"),
        ({"gpt_j_tied": True}, "gpt_j_tied"),
        ({"use_bias_in_mlp": False}, "use_bias_in_mlp"),
        ({"rotary_legacy_fp16": True}, "rotary_legacy_fp16"),
    ],
)
def test_what_hugging_face_does_not_have_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"no {named}:") as caught:
        refuse_for_hugging_face(tiny(**changes))
    assert caught.value.code == "unsupported_option"


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny(gelu="erf", gpt_j_residual=False, rotary_emb_base=5000.0),
        tiny(rope_scaling=RopeScaling("linear", 2.0, 8)),
        tiny(rope_scaling=RopeScaling("yarn", 4.0, 4, beta_fast=16.0, attention_factor=1.25)),
    ],
)
def test_config_json_is_what_transformers_understands(tmp_path: Path, config: ModelConfig) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps(config_json(config, 99, "bf16", [3])))
    found = AutoConfig.from_pretrained(tmp_path)
    assert found.model_type == "gpt_neox"
    assert (found.vocab_size, found.eos_token_id, str(found.dtype)) == (99, 3, "torch.bfloat16")
    assert found.use_parallel_residual == config.gpt_j_residual
    assert found.rope_parameters["rope_theta"] == config.rotary_emb_base
    assert found.rope_parameters["partial_rotary_factor"] == config.rotary_pct
    assert found.max_position_embeddings == config.max_context
    assert read_rope_scaling(found.to_dict()) == config.rope_scaling
    assert found.layer_norm_eps == config.norm_epsilon
