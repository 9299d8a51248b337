"""Keys of the network: what each does to the model's configuration."""

from __future__ import annotations

import pytest

from neoxrun.config.reader import load_settings
from neoxrun.errors import ConfigError


@pytest.mark.parametrize(
    "harmless",
    [
        "attention_config=[[[global, flash], 1]]",
        "attention_config=[[[flash], all]]",
        "attention_config=[flash, global]",
        "num_kv_heads=4",
        "num_kv_heads=null",
        "sliding_window_width=null",
        "use_mup=false",
        "moe_num_experts=1",
        "train_impl=dpo",
        "soft_prompt_tuning={enabled: false}",
        "output_layer_parallelism=row",
        "activation=GELU",
    ],
)
def test_values_that_change_nothing_are_accepted(harmless: str, small: str) -> None:
    assert load_settings([small], [harmless]).model == load_settings([small]).model


def test_a_row_parallel_head_of_several_ranks_is_refused(small: str) -> None:
    with pytest.raises(ConfigError, match="output_layer_parallelism: row is not supported") as caught:
        load_settings([small], ["output_layer_parallelism=row", "model_parallel_size=2"])
    assert caught.value.code == "unsupported_option"


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        (["bias_gelu_fusion=true"], "gelu", "tanh"),
        (["bias_gelu_fusion=true", "onnx_safe=true"], "gelu", "erf"),
        (["norm=rmsnorm"], "norm_epsilon", 1e-8),
        (["norm=rmsnorm", "rms_norm_epsilon=1e-5"], "norm_epsilon", 1e-5),
        (["layernorm_epsilon=1E-3"], "norm_epsilon", 1e-3),
        (["intermediate_size=100"], "intermediate_size", 100),
        (["intermediate_size=100", "mlp_multiple_of=64"], "intermediate_size", 128),
        (["expansion_factor=2.5"], "intermediate_size", 160),
        (["no_weight_tying=on"], "tie_embeddings", False),
        (["model_parallel_size=0"], "model_parallel_size", 1),
        (["rotary_legacy_fp16=true"], "rotary_legacy_fp16", True),
    ],
)
def test_how_an_option_becomes_a_field(overrides: list[str], field: str, value: object, small: str) -> None:
    assert getattr(load_settings([small], overrides).model, field) == value


def test_rotary_dims_are_even_and_at_least_two(small: str) -> None:
    for share in ("0.05", "0.2", "0.19"):  # 0, 3 and 3 of 16
        with pytest.raises(ConfigError, match="rotary dims") as caught:
            load_settings([small], ["pos_emb=rotary", f"rotary_pct={share}"])
        assert caught.value.code == "invalid_value"
    assert load_settings([small], ["pos_emb=rotary", "rotary_pct=0.125"]).model.rotary_pct == 0.125
    load_settings([small], ["rotary_pct=0.05"])  # learned positions do not look at it
