"""The optimizer's state in files of GPT-NeoX: without ZeRO in the order of its modules, and nothing is executed.

DeepSpeed's own files with ZeRO are read in tests/unit/training/test_continuing.py.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.neox_optimizer import SavedOptimizer, SavedSpan, open_optimizer
from neoxrun.checkpoint.neox_run import find_neox_run
from neoxrun.config.tensors import TensorKey
from neoxrun.errors import CheckpointError
from support.checkpoints import TINY
from support.neox_optimizers import EXEMPT, TABLE, adam_state, save_states
from support.plans import settings_for


def opened(folder: Path, rank: int = 0) -> SavedOptimizer:
    run = find_neox_run(replace(settings_for(2, 16, 4), model=TINY, checkpoint=folder))
    assert run is not None
    return open_optimizer(run, rank, TABLE)


def refusal(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as error:
        opened(folder)
    return error.value


@pytest.mark.parametrize("rank", [0, 1])
def test_the_order_is_that_of_the_modules(folder: Path, rank: int) -> None:
    save_states(folder / "global_step1")
    saved = opened(folder, rank)
    assert saved.steps == 7
    assert saved.spans.keys() == TABLE.keys()
    # embedding, then query_key_value, dense, linear1 and linear2 of each layer, then the head; then the rest
    first = {
        TensorKey(0, "word_embeddings.weight"): 0,
        TensorKey(3, "mlp.dense_h_to_4h.weight"): 7,
        TensorKey(6, "final_linear.weight"): 9,
        TensorKey(2, "input_layernorm.weight"): 10,
        TensorKey(2, "attention.query_key_value.bias"): 12,
        TensorKey(5, "norm.bias"): 27,
    }
    for key, number in first.items():
        mean, square = (saved.spans[key][kind].read() for kind in ("exp_avg", "exp_avg_sq"))
        assert (mean.view(-1)[1], square.view(-1)[1]) == (number, number + 0.5), key
        if TABLE[key].dim is not None:
            assert mean.view(-1)[0] == rank, key
    assert tuple(saved.spans[TensorKey(2, "attention.dense.weight")]["exp_avg"].read().shape) == (16, 8)


def test_without_weight_decay_there_is_one_group_in_the_order_of_the_network(folder: Path) -> None:
    state = adam_state(0)
    numbers = {key: 100 + number for number, key in enumerate(TABLE)}
    keys = [key for key in TABLE if key not in EXEMPT] + EXEMPT
    state["state"] = {numbers[key]: state["state"][number] for number, key in enumerate(keys)}
    state["param_groups"] = [{"params": list(numbers.values())}]
    save_states(folder / "global_step1", optimizer=state)
    saved = opened(folder)
    for number, key in enumerate(keys):
        assert saved.spans[key]["exp_avg"].read().view(-1)[1] == number, key


def test_steps_of_groups_and_of_the_engine(folder: Path) -> None:
    step = folder / "global_step1"
    save_states(step, optimizer=adam_state(0, fused=True))
    assert opened(folder).steps == 7
    uncounted = adam_state(0)
    for entry in uncounted["state"].values():
        del entry["step"]
    save_states(step, optimizer=uncounted, more={"global_steps": 9, "skipped_steps": 2})
    assert opened(folder).steps == 7


def without_a_parameter(state: dict[str, Any]) -> None:
    del state["state"][3]


def with_another_shape(state: dict[str, Any]) -> None:
    state["state"][3]["exp_avg"] = torch.ones(3, 16)


def with_other_groups(state: dict[str, Any]) -> None:
    state["param_groups"][0]["params"].pop()


def with_a_text(state: dict[str, Any]) -> None:
    state["state"][3]["exp_avg"] = "nothing"


def without_means(state: dict[str, Any]) -> None:
    state["state"][3] = {"momentum_buffer": torch.ones(3)}


def counting(steps: float, numbers: range) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for number in numbers:
            state["state"][number]["step"] = torch.tensor(steps)

    return change


EVERY = range(len(TABLE))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (counting(float("inf"), EVERY), "another form than is known here (OverflowError"),
        (counting(-5.0, EVERY), "it tells of -5 steps"),
        (counting(9999.0, range(3, 4)), "steps [7, 9999]"),
        (without_a_parameter, "it lacks mlp.dense_h_to_4h.weight of layer 2"),
        (with_another_shape, "mlp.dense_h_to_4h.weight of layer 2 has shape [3, 16] in it, and [32, 16]"),
        (with_other_groups, "it has groups of [9, 18] parameters"),
        (with_a_text, "a str takes the position of its numbers"),
        (without_means, "another form than is known here (KeyError('exp_avg'))"),
    ],
)
def test_the_state_of_another_network(folder: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    state = adam_state(0)
    change(state)
    save_states(folder / "global_step1", optimizer=state)
    error = refusal(folder)
    assert error.code == "unsupported_checkpoint"
    assert says in error.message
    assert "--set finetune=true" in str(error.hint)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """Also where only the parts are, among objects of DeepSpeed's, which are not made."""
    step, ran = folder / "global_step1", tmp_path / "ran"
    state = adam_state(0)
    state["state"][3]["step"] = Hostile(ran)
    save_states(step, optimizer=state)
    error = refusal(folder)
    assert (error.code, ran.exists()) == ("unsafe_file", False)
    save_states(step, optimizer=None)
    for rank in (0, 1):
        part = {"optimizer_state_dict": {"loss_scaler": Hostile(ran)}}
        torch.save(part, step / f"zero_pp_rank_0_mp_rank_{rank:02d}_optim_states.pt")
    error = refusal(folder)
    assert (error.code, ran.exists()) == ("unsafe_file", False)
    assert "asks to run" in error.message


def test_parts_that_are_not_flat_are_refused(folder: Path) -> None:
    step = folder / "global_step1"
    save_states(step, optimizer=None, more={"param_shapes": [{"0.word_embeddings.weight": torch.Size([32, 16])}]})
    for rank in (0, 1):
        part = {"single_partition_of_fp32_groups": [torch.ones(32, 16)]}
        torch.save({"optimizer_state_dict": part}, step / f"zero_pp_rank_0_mp_rank_{rank:02d}_optim_states.pt")
    assert "a tensor of shape [32, 16] takes the position of a flat part" in refusal(folder).message
    save_states(step, optimizer=None)
    assert "another form than is known here (KeyError('param_shapes'))" in refusal(folder).message


def test_a_record_that_is_too_short_is_refused(folder: Path) -> None:
    """However deep its tensor is in the file: mapped without a look, it would show other bytes."""
    step = folder / "global_step1"
    save_states(step)
    path = step / "mp_rank_00_model_states.pt"
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            archive.writestr(name, data[: len(data) // 2] if name.endswith("/data/6") else data)
    assert "the sizes of its tensors are not those of its data" in refusal(folder).message


def test_a_span_over_several_parts() -> None:
    parts = (torch.arange(5.0), torch.arange(5.0, 7.0), torch.arange(7.0, 12.0))
    assert SavedSpan(parts, 4, (2, 2)).read().tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert SavedSpan(parts, 0, (5,)).read().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert SavedSpan(parts, 11, (1,)).read().tolist() == [11.0]
