"""Two folders, tensor by tensor: what is equal, close, different or missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neoxrun.config.settings import ModelConfig
from neoxrun.conversion.convert import convert
from neoxrun.conversion.diff import Difference, compare, diff_json, diff_text, open_side
from neoxrun.errors import CheckpointError, ConfigError
from support.checkpoints import tiny
from support.conversions import make_folder, order
from support.paths import FIXTURES

CONFIG = tiny()


def compared(first: Path, second: Path, config: ModelConfig | None = CONFIG) -> dict[tuple[int, str], Difference]:
    found = compare(open_side(first, config), open_side(second, config))
    assert found == sorted(found, key=lambda one: ("missing", "different", "close", "equal").index(one.state))
    return {(one.layer, one.name): one for one in found}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", CONFIG)


def change(folder: Path, number: int, name: str, value: float, rank: int = 0) -> None:
    path = next(folder.glob(f"global_step*/layer_{number:02d}-model_{rank:02d}-*"))
    content = torch.load(path, weights_only=True)
    content[name].view(-1)[0] = value
    torch.save(content, path)


def test_any_kind_and_split_of_one_model_is_equal(tmp_path: Path, source: Path) -> None:
    convert(order(source, tmp_path / "four", "neox", tp=4))
    convert(order(source, tmp_path / "hf", "huggingface", shard_size=2000))
    for first, second in ((source, tmp_path / "four"), (tmp_path / "hf", tmp_path / "four"), (source, tmp_path / "hf")):
        assert {one.state for one in compared(first, second).values()} == {"equal"}
    kinds = {one.state for one in compared(FIXTURES / "tp2_native", FIXTURES / "tp2_sequential", None).values()}
    assert kinds == {"equal"}, "no configuration is needed where the split is the same"


def test_another_format_is_close(tmp_path: Path, source: Path) -> None:
    convert(order(source, tmp_path / "bf16", "neox", dtype="bf16"))
    found = compared(source, tmp_path / "bf16")
    assert {one.state for one in found.values()} == {"close"}
    assert all(one.note == "float32 and bfloat16" for one in found.values())
    assert all(0 < one.relative < 2**-8 for one in found.values())


def test_neighbours_in_the_number_format_are_close(tmp_path: Path, source: Path) -> None:
    other = make_folder(tmp_path / "other", CONFIG)
    states = []
    change(source, 2, "attention.dense.weight", 1.75)
    for value in (1.75, 1.75 + 2**-23, 1.75 + 2**-22):
        change(other, 2, "attention.dense.weight", value)
        states.append(compared(source, other)[2, "attention.dense.weight"].state)
    assert states == ["equal", "close", "different"]
    coarse = make_folder(tmp_path / "coarse", CONFIG, dtype=torch.bfloat16)
    for folder in (source, coarse):
        path = next(folder.glob("global_step*/layer_02-*"))
        content = torch.load(path, weights_only=True)
        content["attention.dense.bias"].fill_(1.75)
        torch.save(content, path)
    states = []
    for steps in (1.0, 1.5):
        change(source, 2, "attention.dense.bias", 1.75 + steps * 2**-7)
        states.append(compared(source, coarse)[2, "attention.dense.bias"].state)
    assert states == ["close", "different"]


def test_whole_numbers_are_compared_too(tmp_path: Path, source: Path) -> None:
    folders = [source, make_folder(tmp_path / "other", CONFIG)]
    for folder in folders:
        path = next(folder.glob("global_step*/layer_02-*"))
        content = torch.load(path, weights_only=True)
        content["attention.dense.weight"] = torch.ones(16, 16, dtype=torch.int8)
        torch.save(content, path)
    assert compared(*folders)[2, "attention.dense.weight"].state == "equal"
    change(folders[1], 2, "attention.dense.weight", 2)
    assert compared(*folders)[2, "attention.dense.weight"].state == "different"


def test_one_number(tmp_path: Path, source: Path) -> None:
    other = make_folder(tmp_path / "other", CONFIG)
    change(other, 3, "mlp.dense_h_to_4h.weight", 100.0)
    found = compared(source, other)
    (one,) = [one for one in found.values() if one.state != "equal"]
    assert (one.layer, one.name, one.state) == (3, "mlp.dense_h_to_4h.weight", "different")
    assert 95 < one.largest < 105
    assert one.relative == pytest.approx(one.largest / 100)
    assert next(iter(found.values())) is one
    change(other, 3, "mlp.dense_h_to_4h.weight", float("nan"))
    (one,) = [one for one in compared(source, other).values() if one.state != "equal"]
    assert (one.state, one.largest) == ("different", float("inf"))
    logits = {"largest_difference": float("inf"), "positions": 3}
    content = diff_json([one], logits)
    assert content["tensors"][0]["largest"] is None
    assert content["logits"] == {"largest_difference": None, "positions": 3}


def test_other_shapes_and_missing_tensors(tmp_path: Path, source: Path) -> None:
    deeper = make_folder(tmp_path / "deeper", tiny(num_layers=3))
    found = compared(source, deeper, None)
    assert found[4, "attention.dense.weight"].state == "missing"
    wide = make_folder(tmp_path / "wide", tiny(intermediate_size=32))
    found = compared(source, wide, None)
    assert found[2, "mlp.dense_h_to_4h.weight"].state == "different"
    assert found[2, "mlp.dense_h_to_4h.weight"].note == "[64, 16] and [32, 16]"


def test_a_vocabulary_padded_with_zeros_is_equal(tmp_path: Path) -> None:
    odd = make_folder(tmp_path / "odd", CONFIG, rows=61)
    convert(order(odd, tmp_path / "four", "neox", tp=4))
    found = compared(odd, tmp_path / "four")
    assert {one.state for one in found.values()} == {"equal"}
    assert found[0, "word_embeddings.weight"].note == "[61, 16] and [64, 16], padded with zeros"
    text = diff_text([*found.values()], None, 10)
    assert "\nword_embeddings.weight: [61, 16] and [64, 16], padded with zeros\n" in text
    change(tmp_path / "four", 0, "word_embeddings.weight", 5.0, rank=3)
    assert compared(odd, tmp_path / "four")[0, "word_embeddings.weight"].state == "different"


def test_biases_that_ranks_add_up_need_a_configuration_only_where_they_agree(tmp_path: Path) -> None:
    convert(order(FIXTURES / "tp2_native", tmp_path / "one", "neox", tp=1))
    found = compared(FIXTURES / "tp2_native", tmp_path / "one", None)
    assert found[2, "attention.dense.bias"].state in ("equal", "close")
    convert(order(FIXTURES / "tp1_sequential_residual", tmp_path / "two", "neox", tp=2))
    with pytest.raises(ConfigError) as caught:
        compared(tmp_path / "two", FIXTURES / "tp1_sequential_residual", None)
    assert caught.value.code == "incomplete_configuration"
    states = compared(tmp_path / "two", FIXTURES / "tp1_sequential_residual", tiny(num_layers=3, gpt_j_residual=False))
    assert {one.state for one in states.values()} == {"equal"}


def test_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "source", CONFIG, tp=2)
    next(folder.glob("global_step*/layer_02-model_01-*")).unlink()
    with pytest.raises(CheckpointError) as caught:
        open_side(folder, CONFIG)
    assert caught.value.code == "missing_shard"


def test_the_table_shows_the_most_different_first() -> None:
    rows = [Difference(number, "a", "different", 1.0, 1.0 / number) for number in range(1, 26)]
    rows.append(Difference(30, "b", "equal"))
    text = diff_text(rows, None, 20)
    assert "... and 5 more tensors (--all shows them)" in text
    assert text.splitlines()[1].startswith("01")
    assert text.endswith("26 tensors: 25 different, 1 equal\n")
    assert len(diff_text(rows, None, None).splitlines()) == 1 + 26 + 1
