"""config.json of every generation, read as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig
from transformers.activations import ACT2FN

from neoxrun.checkpoint.huggingface import check_config_json
from neoxrun.config.huggingface import GELU, read_config_json, read_json
from neoxrun.config.reader import load_settings
from neoxrun.config.rope import read_rope_scaling
from neoxrun.errors import CheckpointError, ConfigError
from neoxrun.model.dtypes import DTYPES

SMALL = {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}

GENERATIONS: dict[str, dict[str, Any]] = {
    "nothing but its type": {"model_type": "gpt_neox"},
    "transformers 4": SMALL | {"rotary_pct": 0.5, "rotary_emb_base": 5000, "torch_dtype": "float16"},
    "transformers 4.48": SMALL
    | {
        "rotary_pct": 0.5,
        "rotary_emb_base": 5000,
        "partial_rotary_factor": 0.5,
        "rope_theta": 5000,
        "rope_scaling": None,
    },
    "transformers 5": SMALL
    | {
        "rope_parameters": {"rope_theta": 500, "partial_rotary_factor": 1.0, "rope_type": "default"},
        "dtype": "bfloat16",
    },
    "one of them in rope_parameters": SMALL | {"rope_parameters": {"rope_theta": 500}, "rotary_pct": 0.5},
    "rope_scaling of the default type": SMALL
    | {"rope_scaling": {"type": "default", "rope_theta": 7}, "rope_parameters": {"rope_theta": 8}},
    "a top-level rope_theta": SMALL | {"rope_theta": 50000.0, "partial_rotary_factor": 1.0},
    "sequential, tied, without biases": SMALL
    | {"use_parallel_residual": False, "tie_word_embeddings": True, "attention_bias": False, "layer_norm_eps": 1e-6},
    "a wide MLP and a short context": SMALL
    | {"intermediate_size": 100, "max_position_embeddings": 77, "vocab_size": 99},
}


def write(folder: Path, content: dict[str, Any], name: str = "config.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("case", GENERATIONS)
def test_every_generation_means_what_transformers_reads(case: str, tmp_path: Path) -> None:
    write(tmp_path, GENERATIONS[case])
    expected = GPTNeoXConfig.from_pretrained(tmp_path)
    assert dict(read_config_json(tmp_path).options) == {
        "num_layers": expected.num_hidden_layers,
        "hidden_size": expected.hidden_size,
        "num_attention_heads": expected.num_attention_heads,
        "intermediate_size": expected.intermediate_size,
        "layernorm_epsilon": expected.layer_norm_eps,
        "gpt_j_residual": expected.use_parallel_residual,
        "use_bias_in_attn_linear": expected.attention_bias,
        "max_position_embeddings": expected.max_position_embeddings,
        "seq_length": expected.max_position_embeddings,
        "make_vocab_size_divisible_by": expected.vocab_size,
        "rotary_pct": expected.rope_parameters["partial_rotary_factor"],
        "rotary_emb_base": expected.rope_parameters["rope_theta"],
        "no_weight_tying": not expected.tie_word_embeddings,
        **({"precision": {v: k for k, v in DTYPES.items()}[expected.dtype]} if expected.dtype else {}),
        "pos_emb": "rotary",
        "rope_scaling": None,
        "norm": "layernorm",
        "gpt_j_tied": False,
        "bias_gelu_fusion": False,
        "model_parallel_size": 1,
    }


def test_the_names_of_gelu_are_those_of_transformers() -> None:
    values = torch.linspace(-12, 12, 101, dtype=torch.float64)
    same = {
        name
        for name in ACT2FN
        if "gelu" in name
        for form in ("none", "tanh")
        if torch.allclose(ACT2FN[name](values), torch.nn.functional.gelu(values, approximate=form), atol=1e-6, rtol=0)
    }
    assert same == GELU.keys()
    for name, form in GELU.items():
        approximate = "tanh" if form == "tanh" else "none"
        expected = torch.nn.functional.gelu(values, approximate=approximate)
        assert torch.allclose(ACT2FN[name](values), expected, atol=1e-6, rtol=0), name


@pytest.mark.parametrize(("head_dim", "share", "rotated"), [(16, 0.25, 4), (32, 0.25, 8), (8, 1.0, 8), (20, 0.3, 6)])
def test_head_dim_changes_the_rotated_dims_alone(head_dim: int, share: float, rotated: int, tmp_path: Path) -> None:
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

    write(tmp_path, SMALL | {"head_dim": head_dim, "rotary_pct": share})
    found = read_config_json(tmp_path).options["rotary_pct"]
    assert isinstance(found, float)
    assert int(64 // 4 * found) == rotated
    embedding = GPTNeoXRotaryEmbedding(GPTNeoXConfig.from_pretrained(tmp_path))
    assert embedding.inv_freq.numel() * 2 == rotated


def test_a_share_of_a_head_may_be_rounded_down(tmp_path: Path) -> None:
    """49 * (2 / 49) is less than 2: the share that is made of head_dim must lead back to the same dims."""
    for dims in range(2, 49, 2):
        write(
            tmp_path, SMALL | {"hidden_size": 98, "num_attention_heads": 2, "head_dim": 100, "rotary_pct": dims / 100}
        )
        found = read_config_json(tmp_path).options["rotary_pct"]
        assert isinstance(found, float)
        assert int(49 * found) == int(100 * (dims / 100)), dims


REFUSED = {
    "another model": ({"model_type": "llama"}, "'llama'"),
    "no model_type": ({"model_type": None}, "type None"),
    "another activation": ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
    "a clipped GELU": ({"hidden_act": "gelu_10"}, "hidden_act 'gelu_10'"),
    "a list of scalings": ({"rope_scaling": [1]}, "rope_scaling that is not a mapping"),
    "heads beyond a head": ({"head_dim": 32, "rotary_pct": 1.0}, "head_dim 32"),
    "another dtype": ({"torch_dtype": "int8"}, "dtype 'int8'"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "vLLM"),
    "AWQ": ({"quantization_config": {"quant_method": "awq"}}, "quantised (awq)"),
    "bitsandbytes": ({"quantization_config": {"load_in_8bit": True}}, "quantised (bitsandbytes)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_implemented_is_refused_by_its_name(case: str, tmp_path: Path) -> None:
    content, says = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        read_config_json(write(tmp_path, SMALL | content))
    assert says in caught.value.render()
    assert (caught.value.code, caught.value.where) == ("unsupported_checkpoint", str(tmp_path / "config.json"))


def test_other_keys_are_passed_over_and_listed(tmp_path: Path) -> None:
    write(tmp_path, SMALL | {"use_cache": True, "architectures": ["GPTNeoXForCausalLM"], "rope_theta": 5.0})
    assert read_config_json(tmp_path).passed_over == ("architectures", "rope_theta", "use_cache")


@pytest.mark.parametrize(
    ("text", "says", "code"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull", "damaged_file"),
        ("{", "cannot read", "unreadable_checkpoint"),
        ("[1]", "not hold a JSON object", "damaged_file"),
        ("[" * 100_000, "cannot read", "unreadable_checkpoint"),
    ],
)
def test_damaged_json(text: str, says: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_json(tmp_path / "config.json")
    assert says in caught.value.render()
    assert caught.value.code == code


@pytest.mark.parametrize(
    "content",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500, "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 512},
    ],
)
def test_scaled_positions_keep_what_transformers_reads(content: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, SMALL | content)
    options = read_config_json(tmp_path).options
    config = GPTNeoXConfig.from_pretrained(tmp_path)
    config.standardize_rope_params()  # as its model does
    expected = config.rope_parameters
    assert options["rotary_emb_base"] == expected["rope_theta"]
    assert options["rotary_pct"] == expected["partial_rotary_factor"]
    scaling = read_rope_scaling(options)
    assert scaling is not None
    assert (scaling.kind, scaling.factor) == (expected["rope_type"], expected["factor"])
    assert scaling.original_max_position_embeddings == expected.get("original_max_position_embeddings", 2048)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["llama3", "longrope", "dynamic"])
def test_other_kinds_of_scaling_are_refused_by_their_names(
    kind: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, SMALL | {name: {"rope_type": kind, "factor": 2.0}})
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=f"{name}: {kind} is not supported") as caught:
        load_settings([str(tmp_path)])
    assert caught.value.where == str(tmp_path / "config.json")
    model = load_settings([str(tmp_path)], ["rope_scaling=null"]).model
    assert model.rope_scaling is None
    (warning,) = check_config_json(tmp_path, model, chosen=True)
    assert f"is overridden: {name}: {kind} is not supported" in warning
    with pytest.raises(ConfigError, match=f"{name}: {kind} is not supported"):
        check_config_json(tmp_path, model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"num_hidden_layers": "many"}, "num_hidden_layers must be a whole number"),
        ({"hidden_size": None}, "does not set hidden_size"),
        ({"max_position_embeddings": None}, "does not set max_position_embeddings"),
        ({"layer_norm_eps": -1}, "layer_norm_eps must be a number"),
        ({"use_parallel_residual": "yes"}, "use_parallel_residual must be true or false"),
        ({"rotary_pct": 0.0}, "^rotary_pct must be a number"),
        ({"rotary_pct": 0.2}, "^rotary_pct 0.2 of 16 dims per head makes 3 rotary dims"),
        ({"rope_parameters": {"partial_rotary_factor": 0.0}}, r"^rope_parameters\.partial_rotary_factor must be"),
        ({"rope_scaling": {"partial_rotary_factor": 0.2}}, r"^rope_scaling\.partial_rotary_factor 0.2 of 16 dims"),
        ({"rope_parameters": {"rope_theta": "x"}}, r"^rope_parameters\.rope_theta must be"),
        ({"rotary_emb_base": 0}, "^rotary_emb_base must be"),
    ],
)
def test_refusals_name_the_keys_of_the_file(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path, SMALL | content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings([str(tmp_path)])
    assert "config.json" in str(caught.value.where) or str(tmp_path) == caught.value.where


def test_a_refusal_of_what_was_set_names_the_option(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    with pytest.raises(ConfigError, match=r"^num_layers must be a whole number"):
        load_settings([str(tmp_path)], ["num_layers=x"])
