"""A configuration for a folder of weights, as far as its files tell."""

from __future__ import annotations

from dataclasses import dataclass

from neoxrun.config.reader import load_settings
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.shipped import shipped_names
from neoxrun.config.tensors import FIRST_LAYER
from neoxrun.config.tokenizer_names import find_tokenizer
from neoxrun.conversion.configurations import neox_options, yaml_text
from neoxrun.conversion.surveyed import Survey
from neoxrun.errors import NeoxrunError


@dataclass(frozen=True)
class Description:
    """What a configuration says.

    Attributes:
        origin: where it is from, as a sentence.
        text: YAML.
        whole: whether neoxrun runs it as it is.
    """

    origin: str
    text: str
    whole: bool


def describe(survey: Survey, folder: str) -> Description:
    """The folder's own configuration, that of a released model of the same shape, or what the shapes tell.

    Args:
        survey: what is in the folder.
        folder: its path.
    """
    try:
        settings = load_settings([folder])
    except NeoxrunError:
        pass
    else:
        return Description("As the folder itself says.", yaml_text(_options(survey, settings.model)), whole=True)
    shipped = [name for name in shipped_names() if _matches(survey, load_settings([name]).model)]
    if shipped:
        origin = f"The shapes are those of the shipped configuration {' or '.join(shipped)}, which says:"
        return Description(origin, yaml_text(_options(survey, load_settings([shipped[0]]).model)), whole=True)
    options, unknown = _from_shapes(survey)
    comments = [f"not in the files: {', '.join(unknown)}"]
    return Description("As far as the shapes tell:", yaml_text(options, *comments), whole=False)


def _options(survey: Survey, config: ModelConfig) -> dict[str, object]:
    """The network's options, and where its files are."""
    kinds = {kind for tensor in survey.tensors.values() for kind in tensor.dtypes}
    precision: Precision = "fp16" if kinds == {"float16"} else "bf16" if kinds == {"bfloat16"} else "fp32"
    return neox_options(config, precision) | _paths(survey)


def _paths(survey: Survey) -> dict[str, object]:
    folder = survey.folder.absolute()
    return {"load": str(folder), **(find_tokenizer(folder) or find_tokenizer(folder.parent))}


def _matches(survey: Survey, config: ModelConfig) -> bool:
    return (
        survey.num_layers == config.num_layers
        and survey.shape(FIRST_LAYER, "attention.query_key_value.weight")
        == (3 * config.hidden_size, config.hidden_size)
        and survey.shape(FIRST_LAYER, "mlp.dense_h_to_4h.weight") == (config.intermediate_size, config.hidden_size)
        and (survey.shape(config.num_layers + 4, "final_linear.weight") is None) == config.tie_embeddings
        and (survey.shape(FIRST_LAYER, "attention.dense.bias") is not None) == config.use_bias_in_attn_linear
    )


def _from_shapes(survey: Survey) -> tuple[dict[str, object], list[str]]:
    """Options that shapes and names tell, and the names of those that they do not."""
    layers = survey.num_layers
    embedding = survey.shape(0, "word_embeddings.weight") or (0, 0)
    hidden = embedding[1] if len(embedding) > 1 else 0
    mlp = survey.shape(FIRST_LAYER, "mlp.dense_h_to_4h.weight")
    positions = survey.shape(0, "position_embeddings.weight")
    options: dict[str, object] = {"model_parallel_size": survey.tp, "num_layers": layers, "hidden_size": hidden}
    unknown = ["num_attention_heads", "seq_length", "bias_gelu_fusion"]
    if mlp is not None and mlp[0] != 4 * hidden:
        options["intermediate_size"] = mlp[0]
    rms = survey.shape(FIRST_LAYER, "input_layernorm.scale") is not None
    options["norm"] = "rmsnorm" if rms else "layernorm"
    if positions is not None:
        options |= {"pos_emb": "learned", "max_position_embeddings": positions[0]}
    elif "attention.rotary_emb.inv_freq" in survey.buffers:
        options["pos_emb"] = "rotary"
        dims = 2 * survey.buffers["attention.rotary_emb.inv_freq"][0]
        unknown += [f"rotary_pct ({dims} dims of each head)", "max_position_embeddings"]
    else:
        unknown += ["pos_emb", "rotary_pct", "max_position_embeddings"]
    drift = [tensor.drift for key, tensor in survey.tensors.items() if key.name == "mlp.dense_4h_to_h.bias"]
    if any(drift):
        options["gpt_j_residual"] = True  # otherwise every rank holds the same bias
    else:
        unknown.append("gpt_j_residual")
    for key, name in (
        ("use_bias_in_attn_linear", "attention.dense.bias"),
        ("use_bias_in_mlp", "mlp.dense_4h_to_h.bias"),
    ):
        if survey.shape(FIRST_LAYER, name) is None:
            options[key] = False
    options["no_weight_tying"] = survey.shape(layers + 4, "final_linear.weight") is not None
    if survey.tp:
        options["make_vocab_size_divisible_by"] = embedding[0] // survey.tp
    paths = _paths(survey)
    if "vocab_file" not in paths:
        unknown.append("vocab_file")
    return options | paths, unknown
