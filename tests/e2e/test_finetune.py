"""`neoxrun finetune` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import neoxrun
from support.paths import shared_folder

TRAIN = shared_folder() / "fixtures-train"


@pytest.mark.skipif(not TRAIN.is_dir(), reason=f"{TRAIN} is not here")
def test_a_configuration_of_gpt_neox_alone_is_enough(tmp_path: Path) -> None:
    """Its data, split, schedule, optimizer and weights: the losses, rates and norms are GPT-NeoX's own."""
    run = tmp_path / "run"
    done = neoxrun("finetune", TRAIN / "tp1" / "config.yml", "--device", "cpu", "--output", run).check_success()
    assert done.out == ""
    steps, evaluations = [], []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        (steps if "loss" in row else evaluations).append(row)
    theirs = json.loads((TRAIN / "tp1" / "curves.json").read_text())["runs"]["micro4_zero0"]
    for mine, key in (("loss", "lm_loss"), ("lr", "lr"), ("grad_norm", "grad_norm")):
        assert [row[mine] for row in steps] == pytest.approx(theirs[key], rel=1e-5, abs=1e-5), key
    assert (run / "settings.json").is_file()
    assert [row["step"] for row in evaluations] == [0, 20]
    losses = [row["eval_loss"] for row in evaluations]
    assert losses == pytest.approx([theirs["eval_before"], theirs["eval_after"]], rel=1e-5)
