"""Which files of a repository are downloaded."""

from __future__ import annotations

import pytest

from neoxrun.config.names import MANIFEST_NAME
from neoxrun.download.hub_files import choose_files, variants_of


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "config.json", "flax_model.msgpack"], ["config.json", "pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", "model-1-of-2.safetensors", "pytorch_model.bin.index.json"],
            ["model-1-of-2.safetensors", "model.safetensors.index.json"],
        ),
        (
            ["latest", "global_step10/layer_00-model_states.pt", "config.yml", ".gitattributes", MANIFEST_NAME],
            ["config.yml", "global_step10/layer_00-model_states.pt", "latest"],
        ),
        (["config.json", "tokenizer.json"], []),
        (["config.json", "model.fp16.safetensors"], []),
        (
            ["model.safetensors", "spiece.model", "tokenizer.model", "added_tokens.json", "training_args.bin"],
            ["added_tokens.json", "model.safetensors", "spiece.model", "tokenizer.model"],
        ),
    ],
)
def test_weights_are_taken_in_one_form(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names) == chosen


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model.fp16.safetensors", "config.json"], ["config.json", "model.fp16.safetensors"]),
        (["pytorch_model.fp16.bin", "pytorch_model.bin"], ["pytorch_model.fp16.bin"]),
        (
            [
                "model.safetensors.index.fp16.json",
                "model.fp16-00001-of-00002.safetensors",
                "model-00001-of-2.safetensors",
            ],
            ["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"],
        ),
        (["model.safetensors", "config.json"], []),
        (["latest", "global_step10/layer_00-model_states.pt"], []),
    ],
)
def test_a_variant_is_taken_alone(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names, "fp16") == chosen


def test_the_variants_of_a_repository() -> None:
    names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json", "pytorch_model.bin"]
    assert variants_of(names) == []
    assert variants_of([*names, "model.safetensors.index.bf16.json", "pytorch_model.fp16.bin"]) == ["bf16", "fp16"]
