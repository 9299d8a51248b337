"""Which runs of GPT-NeoX can be continued, by the files of a checkpoint; what its optimizer's state holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.neox_run import find_neox_run
from neoxrun.config.settings import Settings
from neoxrun.errors import CheckpointError, UsageError
from support.neox_optimizers import SCHEDULE, found_run, save_states


def refusal(settings: Settings) -> str:
    with pytest.raises(CheckpointError) as error:
        find_neox_run(settings)
    return error.value.render()


def test_weights_alone_are_no_run(settings: Settings, step: Path) -> None:
    assert find_neox_run(settings) is None
    for none in (None, {"state": {}, "param_groups": [{"params": [0]}]}):
        save_states(step, optimizer=none)
        assert find_neox_run(settings) is None


def test_a_run_without_zero(settings: Settings, step: Path) -> None:
    save_states(step)
    run = found_run(settings)
    assert (run.folder, run.iteration, run.tp, run.parts) == (step, 7, 2, ())
    assert run.schedule == SCHEDULE
    assert [path.name for path in run.ranks] == ["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"]


def test_what_adamw_is_set_to(settings: Settings, step: Path) -> None:
    save_states(step)
    assert found_run(settings).adam == {"betas": (0.8, 0.9), "epsilon": 1e-6, "weight_decay": 0.2}
    state = {0: {"exp_avg": torch.ones(3)}}
    one = {"params": [0], "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0}  # as where nothing decays
    save_states(step, optimizer={"state": state, "param_groups": [one]})
    assert found_run(settings).adam == {"betas": (0.9, 0.99), "epsilon": 1e-8, "weight_decay": 0.0}
    save_states(step, optimizer={"state": state, "param_groups": [{"params": [0]}]})
    assert found_run(settings).adam == {}
    for key, value in (("betas", (0.9, 1.0)), ("betas", 0.9), ("eps", float("nan")), ("weight_decay", "0.1")):
        save_states(step, optimizer={"state": state, "param_groups": [one, one | {key: value}]})
        assert f"{key} of its groups of parameters is {value!r}" in refusal(settings)


@pytest.mark.parametrize("prefix", ["", "bf16_"])
def test_a_run_with_zero(settings: Settings, step: Path, prefix: str) -> None:
    save_states(step, optimizer=None, dp_world_size=3)
    names = [
        [f"{prefix}zero_pp_rank_{part}_mp_rank_{rank:02d}_optim_states.pt" for part in range(3)] for rank in (0, 1)
    ]
    for name in names[0] + names[1]:
        (step / name).write_bytes(b"x")
    run = found_run(settings)
    assert [[path.name for path in paths] for paths in run.parts] == names
    (step / names[1][2]).unlink()
    (step / names[0][2]).unlink()
    text = refusal(settings)
    assert "2 files are missing" in text
    assert "zero_pp_rank_2_mp_rank_01_optim_states.pt" in text


def test_what_is_not_continued(settings: Settings, step: Path) -> None:
    save_states(step, optimizer={"fp32_groups_flat": [torch.ones(3)], "optimizer_state_dict": {}})
    assert "saved in 16 bits without ZeRO" in refusal(settings)
    save_states(step)
    (step / "mp_rank_02_model_states.pt").write_bytes(b"x")
    text = refusal(settings)
    assert "several pipeline stages" in text
    assert "--set finetune=true" in text
    (step / "mp_rank_02_model_states.pt").unlink()
    (step / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    assert "ZeRO stage 3" in refusal(settings)


def test_missing_and_mixed_files(settings: Settings, step: Path) -> None:
    save_states(step)
    (step / "mp_rank_01_model_states.pt").unlink()
    assert "1 file is missing from the checkpoint: mp_rank_01_model_states.pt" in refusal(settings)
    save_states(step, iteration=None)
    assert "does not tell the iteration" in refusal(settings)
    for prefix in ("", "bf16_"):
        (step / f"{prefix}zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    assert "are both present" in refusal(settings)


def test_steps_and_split(settings: Settings, step: Path) -> None:
    save_states(step)
    run = found_run(settings)
    run.check_steps(8)
    with pytest.raises(UsageError, match="has 7 steps already, and 7 are asked for"):
        run.check_steps(7)
    run.check_split(2)
    with pytest.raises(UsageError, match=r"model_parallel_size 2, .* not with 1") as error:
        run.check_split(1)
    assert "--tp 2" in str(error.value.hint)


def test_other_rows_in_a_step_are_named(settings: Settings, step: Path) -> None:
    save_states(step)
    assert found_run(settings).row_warnings(5) == []
    save_states(step, more={"global_samples": 36})
    assert found_run(settings).row_warnings(4) == []
    (warning,) = found_run(settings).row_warnings(5)
    assert "had 4 rows, and these have 5: the data continue from row 35" in warning


def test_a_hostile_file_is_not_run(settings: Settings, step: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    save_states(step, schedule=Hostile())
    assert found_run(settings).schedule == {}
    assert not (tmp_path / "ran").exists()
