"""Which adapters fit a network, told without torch and before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neoxrun.checkpoint.adapter_layout import use_adapter
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError, NeoxrunError, UsageError
from support.checkpoints import TINY
from support.lora import adapter_tensors, write_peft_folder

PREFIX = "base_model.model.gpt_neox.layers"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return dataclasses.replace(load_settings(["demo"]), model=TINY)


def refused(settings: Settings, folder: Path) -> NeoxrunError:
    with pytest.raises(CheckpointError) as caught:
        use_adapter(settings, str(folder), random_weights=False)
    return caught.value


def test_an_adapter_that_fits(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_peft_folder(tmp_path / "adapter", adapter_tensors(TINY))
    monkeypatch.chdir(tmp_path)
    assert use_adapter(settings, "adapter", random_weights=False).adapter == tmp_path / "adapter"
    assert use_adapter(settings, None, random_weights=True) is settings
    with pytest.raises(UsageError, match="random weights") as caught:
        use_adapter(settings, "adapter", random_weights=True)
    assert caught.value.code == "conflicting_options"


def test_layers_that_the_configuration_leaves_out_may_be_missing(settings: Settings, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in adapter_tensors(TINY).items() if ".1.mlp" in name}
    targets = ["dense_h_to_4h", "mlp.dense_4h_to_h"]
    write_peft_folder(tmp_path, tensors, layers_to_transform=[1], target_modules=targets)
    use_adapter(settings, str(tmp_path), random_weights=False)
    write_peft_folder(tmp_path, tensors, layers_to_transform=None, target_modules=targets)
    assert "lacks" in refused(settings, tmp_path).message
    write_peft_folder(tmp_path, tensors, target_modules=r".*1\.mlp\..*")
    use_adapter(settings, str(tmp_path), random_weights=False)


def replaced(name: str, tensor: Tensor | None) -> Callable[[Tensors], Tensors]:
    """The tensors with another one under a name, or without it."""
    return lambda tensors: {key: value for key, value in (tensors | {name: tensor}).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda tensors: {}, "mismatched_adapter", "lacks"),
        (replaced(f"{PREFIX}.0.attention.dense.lora_A.weight", None), "mismatched_adapter", "0.attention.dense.lora_A"),
        (replaced(f"{PREFIX}.2.attention.dense.lora_A.weight", torch.ones(2, 16)), "mismatched_adapter", "has layer 2"),
        (replaced(f"{PREFIX}.0.attention.dense.lora_B.weight", torch.ones(17, 2)), "mismatched_adapter", "[17, 2]"),
        (replaced(f"{PREFIX}.0.attention.dense.lora_A.weight", torch.ones(3, 16)), "mismatched_adapter", "[3, 16]"),
        (replaced("base_model.model.embed_out.lora_A.weight", torch.ones(2, 16)), "unsupported_adapter", "embed_out"),
        (replaced(f"{PREFIX}.0.attention.dense.lora_B.bias", torch.ones(16)), "unsupported_adapter", "lora_B.bias"),
        (
            replaced("base_model.model.layers.0.attention.dense.lora_A.weight", torch.ones(2, 16)),
            "mismatched_adapter",
            "the same one",
        ),
    ],
)
def test_adapters_that_do_not_fit(
    settings: Settings, change: Callable[[Tensors], Tensors], code: str, says: str, tmp_path: Path
) -> None:
    write_peft_folder(tmp_path, change(adapter_tensors(TINY)))
    error = refused(settings, tmp_path)
    assert error.code == code
    assert says in error.message
    if code == "mismatched_adapter":
        assert "models/base" in str(error.hint), "the model it was trained on is named"


def test_folders_without_an_adapter(settings: Settings, tmp_path: Path) -> None:
    missing = refused(settings, tmp_path / "nothing")
    assert (missing.code, "no folder" in missing.message) == ("missing_adapter", True)
    (tmp_path / "config.json").write_text("{}")
    assert "give it as CONFIG" in str(refused(settings, tmp_path).hint)
    write_peft_folder(tmp_path, adapter_tensors(TINY))
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refused(settings, tmp_path).message
