"""Converting with an adapter: what is written, and what the receipt proves of it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import pytest
import torch

from neoxrun.checkpoint.adapter import LowRank, open_adapter
from neoxrun.checkpoint.adapter_layout import ADAPTER_WEIGHTS
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import load_weights
from neoxrun.config.reader import load_settings
from neoxrun.config.tensors import TensorKey, local_shape, parameters
from neoxrun.conversion.convert import convert
from neoxrun.conversion.options import ConvertOptions
from neoxrun.errors import UsageError
from support.checkpoints import tiny
from support.conversions import TOKENIZER, make_folder, order
from support.lora import adapter_tensors, write_peft_folder

CONFIG = tiny()
ROWS = 64


def with_adapter(options: ConvertOptions, adapter: Path) -> ConvertOptions:
    return dataclasses.replace(options, settings=dataclasses.replace(options.settings, adapter=adapter))


def loaded(folder: Path, configuration: Path, adapter: Path | None) -> dict[TensorKey, torch.Tensor]:
    config = load_settings([str(configuration)]).model
    found: dict[TensorKey, torch.Tensor] = {}
    load_weights(
        find_checkpoint(folder, config),
        {key: local_shape(key.name, parameter, 1) for key, parameter in parameters(config, ROWS).items()},
        found.__setitem__,
        config=config,
        tp_rank=0,
        tp_size=1,
        device=torch.device("cpu"),
        dtype=torch.float32,
        adapter=None if adapter is None else open_adapter(adapter, config),
    )
    return found


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("source_tp", "to", "tp"), [(1, "huggingface", 1), (2, "huggingface", 1), (2, "neox", 2)])
def test_the_merged_model_is_that_of_a_load(
    source_tp: int, to: Literal["neox", "huggingface"], tp: int, dtype: Literal["fp32", "fp16"], tmp_path: Path
) -> None:
    """Bit for bit, in the number format; the unmerged adapter gives the same logits; its files are hashed."""
    stored = torch.float32 if dtype == "fp32" else torch.float16
    folder = make_folder(tmp_path / "source", CONFIG, tp=source_tp, rows=ROWS, dtype=stored)
    adapter = write_peft_folder(tmp_path / "adapter", adapter_tensors(CONFIG))
    receipt = convert(with_adapter(order(folder, tmp_path / "target", to, tp=tp), adapter))
    assert receipt["rules"]["sum with the adapter"] == 4 * CONFIG.num_layers
    assert not receipt["equal"]
    assert any("added to 8 weights" in text for text in receipt["remains"])
    assert receipt["logits"]["largest_difference"] < (1e-4 if dtype == "fp32" else 0.3)
    assert receipt["adapter"]["scales"] == [2.0]
    content = (adapter / ADAPTER_WEIGHTS).read_bytes()
    assert receipt["adapter"]["files"][ADAPTER_WEIGHTS]["sha256"] == hashlib.sha256(content).hexdigest()
    merged = loaded(folder, folder / "model.yml", adapter)
    target = tmp_path / "target"
    written = loaded(target, target if to == "huggingface" else target / "config.yml", None)
    for key, tensor in merged.items():
        assert torch.equal(tensor.to(stored).float(), written[key]), key


def test_weights_without_an_adapter_are_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "source", CONFIG)
    tensors = {name: tensor for name, tensor in adapter_tensors(CONFIG).items() if ".dense." in name}
    adapter = write_peft_folder(tmp_path / "adapter", tensors, target_modules=["dense"])
    receipt = convert(with_adapter(order(folder, tmp_path / "target", "huggingface"), adapter))
    merged = {(one["layer"], one["name"]) for one in receipt["tensors"] if not one["equal"]}
    assert merged == {(layer, "attention.dense.weight") for layer in (2, 3)}


def test_a_merge_that_goes_wrong_shows_in_the_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof does not compare the merge with itself: the source's side computes the adapter next to the weights."""
    folder = make_folder(tmp_path / "source", CONFIG)
    adapter = write_peft_folder(tmp_path / "adapter", adapter_tensors(CONFIG))
    right = LowRank.add_to

    def twice(self: LowRank, weight: torch.Tensor, row: int, column: int) -> torch.Tensor:
        return right(dataclasses.replace(self, scale=2 * self.scale), weight, row, column)

    monkeypatch.setattr(LowRank, "add_to", twice)
    receipt = convert(with_adapter(order(folder, tmp_path / "target", "huggingface"), adapter))
    assert receipt["logits"]["largest_difference"] > 0.1, "1e-4 where it is right, as the first test has it"


def test_another_adapter_does_not_continue_an_interrupted_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "source", CONFIG, options=TOKENIZER)
    adapter = write_peft_folder(tmp_path / "adapter", adapter_tensors(CONFIG))
    options = order(folder, tmp_path / "target", "huggingface")
    with monkeypatch.context() as patch:
        patch.setattr("neoxrun.conversion.convert.prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(options)
    with pytest.raises(UsageError, match="had another source or other options"):
        convert(with_adapter(options, adapter))
