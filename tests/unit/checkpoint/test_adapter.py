"""Merging an adapter into the weights of a rank: exact, rounded once, at any split."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from neoxrun.checkpoint.adapter import LowRank, open_adapter, write_adapter
from neoxrun.checkpoint.adapter_layout import ADAPTER_WEIGHTS
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import load_weights
from neoxrun.checkpoint.merge import ADAPTER
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.config.tensors import TensorKey, local_shape, parameters
from neoxrun.config.training import LoraConfig
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY, random_model
from support.lora import adapter_tensors, write_peft_folder

CPU = torch.device("cpu")
ROWS = 20


def loaded(
    folder: Path,
    config: ModelConfig,
    adapter: Path | None,
    tp: int,
    rank: int,
    dtype: torch.dtype,
    merge: Merge = "fold",
    approximated: set[str] | None = None,
) -> dict[TensorKey, Tensor]:
    found: dict[TensorKey, Tensor] = {}
    table = parameters(config, ROWS)
    names = load_weights(
        find_checkpoint(folder, config),
        {key: local_shape(key.name, parameter, tp) for key, parameter in table.items()},
        found.__setitem__,
        config=config,
        tp_rank=rank,
        tp_size=tp,
        device=CPU,
        dtype=dtype,
        merge=merge,
        adapter=None if adapter is None else open_adapter(adapter, config),
    )
    if approximated is not None:
        approximated |= names
    return found


def merged(weights: dict[TensorKey, Tensor], tensors: dict[str, Tensor]) -> dict[TensorKey, Tensor]:
    """``W + 2 B A`` in fp64, of all weights that have an adapter of rank 2 and alpha 4."""
    result = dict(weights)
    for name, a in tensors.items():
        if "lora_A" in name:
            layer, _, module = name.removeprefix("base_model.model.gpt_neox.layers.").partition(".")
            key = TensorKey(int(layer) + 2, module.replace("lora_A.", ""))
            b = tensors[name.replace("lora_A", "lora_B")]
            result[key] = weights[key].double() + 2 * b.double() @ a.double()
    return result


@pytest.mark.parametrize("noted", [None, "fold", "average"])
@pytest.mark.parametrize("merge", ["fold", "average"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_an_adapter_adds_to_the_weights_that_norms_were_merged_into(
    tp: int, merge: Merge, noted: Merge | None, tmp_path: Path
) -> None:
    """As at another size without it, also at the checkpoint's own; how it was trained is noted in its file."""
    tensors = adapter_tensors(TINY)
    save_layer_files(random_model(TINY, ROWS), tmp_path, tp=2, config=TINY, tag="global_step1")
    path = tmp_path / "global_step1" / "layer_02-model_01-model_states.pt"
    shard = torch.load(path)
    shard["input_layernorm.weight"] *= 1.5
    torch.save(shard, path)
    adapter = write_peft_folder(tmp_path / "adapter", tensors)
    if noted is not None:
        save_file(tensors, adapter / ADAPTER_WEIGHTS, metadata={"format": "pt", "neoxrun_merge": noted})
    plain = loaded(tmp_path, TINY, None, 1, 0, torch.float32, merge)
    expected, table = merged(plain, tensors), parameters(TINY, ROWS)
    for rank in range(tp):
        names: set[str] = set()
        found = loaded(tmp_path, TINY, adapter, tp, rank, torch.float32, merge, names)
        for key in table:
            dim = table[key].dim
            if dim is not None:
                right = expected[key].chunk(tp, dim)[rank]
                assert (found[key].double() - right).abs().max() < 2e-6, key
        assert (ADAPTER in names) == (merge != (noted or "average"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("source", "tp"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 2)])
def test_every_rank_gets_its_part_of_the_merged_weights(
    source: int, tp: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """As the rule has it in fp64, but for the rounding of fp32 and one to the number format."""
    weights, tensors = random_model(TINY, ROWS, dtype=dtype), adapter_tensors(TINY)
    save_layer_files(weights, tmp_path, tp=source, config=TINY, tag="global_step1")
    adapter = write_peft_folder(tmp_path / "adapter", tensors)
    table, expected = parameters(TINY, ROWS), merged(weights, tensors)
    for rank in range(tp):
        found = loaded(tmp_path, TINY, adapter, tp, rank, dtype)
        changed = set()
        plain = loaded(tmp_path, TINY, None, tp, rank, dtype)
        for key, tensor in found.items():
            dim = table[key].dim
            if not torch.equal(tensor, plain[key]):
                changed.add(key)
                assert dim is not None
                right = expected[key].chunk(tp, dim)[rank]
                assert (tensor.double() - right).abs().max() < 4 * torch.finfo(dtype).eps
        assert changed == {key for key in weights if expected[key] is not weights[key]}


def test_the_merged_weight_is_rounded_once() -> None:
    """Three parts of a quarter of a step each: added to a weight of fp16 one by one, all would be lost."""
    low_rank = LowRank(torch.full((3, 1), 2.0**-6), torch.full((1, 3), 2.0**-6), 1.0)
    weight = torch.ones(1, 1, dtype=torch.float16)
    target = torch.empty_like(weight)
    low_rank.merge(target, weight, 0, 0)
    assert target.item() == 1 + 2.0**-10


def test_large_weights_are_merged_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, weight = (torch.randn(shape, generator=generator) for shape in ((3, 10), (9, 3), (4, 6)))
    low_rank = LowRank(a, b, 0.5)
    target = torch.empty(4, 6)
    monkeypatch.setattr("neoxrun.checkpoint.adapter._NUMBERS_AT_ONCE", 13)
    low_rank.merge(target, weight, 5, 4)
    torch.testing.assert_close(target, weight + 0.5 * (b @ a)[5:, 4:])


def test_what_is_written_is_read_again_bit_for_bit(tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=3.0, targets=("dense",))
    generator = torch.Generator().manual_seed(0)
    matrices = {
        TensorKey(layer, "attention.dense.weight"): (
            torch.randn(2, 16, generator=generator),
            torch.randn(2, 16, generator=generator).t(),
        )
        for layer in (2, 3)
    }
    write_adapter(tmp_path, lora, matrices, None)
    adapter = open_adapter(tmp_path, TINY)
    assert adapter.low_rank.keys() == matrices.keys()
    for key, low_rank in adapter.low_rank.items():
        assert torch.equal(low_rank.a, matrices[key][0])
        assert torch.equal(low_rank.b, matrices[key][1])
        assert low_rank.scale == 1.5


@pytest.mark.parametrize(
    ("tensor", "code"),
    [(torch.tensor([[float("nan")] * 16] * 2), "nonfinite_weights"), (torch.ones(2, 16).int(), "unsupported_adapter")],
)
def test_numbers_that_cannot_be_merged(tensor: Tensor, code: str, tmp_path: Path) -> None:
    name = "base_model.model.gpt_neox.layers.1.attention.dense.lora_A.weight"
    write_peft_folder(tmp_path, adapter_tensors(TINY) | {name: tensor})
    with pytest.raises(CheckpointError) as caught:
        open_adapter(tmp_path, TINY)
    assert caught.value.code == code
    assert name in caught.value.message


def test_an_adapter_that_was_cut_short(tmp_path: Path) -> None:
    write_peft_folder(tmp_path, adapter_tensors(TINY))
    path = tmp_path / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError) as caught:
        open_adapter(tmp_path, TINY)
    assert caught.value.code == "damaged_file"


def test_an_old_adapter_that_asks_to_run_code_is_refused(tmp_path: Path) -> None:
    write_peft_folder(tmp_path, adapter_tensors(TINY))
    (tmp_path / ADAPTER_WEIGHTS).unlink()
    torch.save({"a": dataclasses.field}, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_adapter(tmp_path, TINY)
    assert caught.value.code == "unsafe_file"
