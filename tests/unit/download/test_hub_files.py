"""Which files of a repository are downloaded."""

from __future__ import annotations

import pytest

from neoxrun.download.hub_files import choose_files
from neoxrun.download.remote import MANIFEST_NAME


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
    ],
)
def test_weights_are_taken_in_one_form(names: list[str], chosen: list[str]) -> None:
    assert choose_files(names) == chosen
