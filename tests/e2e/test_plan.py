"""`neoxrun plan` as people see it, for devices that are not here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import neoxrun
from support.families import make_folder
from support.snapshots import Snapshot

PLANS = {
    "two 80 GB": (("--devices", "2x80GB"), "tensor parallel 2 x pipeline 1 x replicas 1, on 2 GPUs"),
    "one prompt": (("--devices", "2x80GB", "--prompts", "1"), "tensor parallel 2 x pipeline 1 x replicas 1"),
    "many prompts": (("--devices", "8x80GB", "--prompts", "10000"), "tensor parallel 2 x pipeline 1 x replicas 4"),
    "scoring": (("--devices", "2x80GB", "--score"), "tensor parallel 1 x pipeline 1 x replicas 2"),
    "small cards": (("--devices", "3x22GB"), "tensor parallel 1 x pipeline 3 x replicas 1"),
    "shorter context": (("--devices", "2x23GB"), "tensor parallel 2 x pipeline 1 x replicas 1"),
    "a known card": (("--devices", "2xH100"), "tensor parallel 2 x pipeline 1 x replicas 1, on 2 GPUs"),
    "flags": (("--devices", "2x80GB", "--tp", "1"), "tensor parallel 1 x pipeline 1 x replicas 2"),
}


@pytest.mark.parametrize("case", PLANS)
def test_plan(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    arguments, split = PLANS[case]
    result = neoxrun("plan", "20B", *arguments, cwd=tmp_path).check_success()
    assert result.out.splitlines()[1].startswith(split)
    snapshot(result)


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 700_000)


def unfinished_index(folder: Path) -> None:
    """The single file as one of two."""
    first, second = (f"model-0000{part}-of-00002.safetensors" for part in (1, 2))
    (folder / "model.safetensors").rename(folder / first)
    index = {"weight_map": {"gpt_neox.embed_in.weight": first, "embed_out.weight": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("damage", [truncated, unfinished_index])
def test_a_plan_names_damaged_files_as_generate_does(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """The plan is there all the same, and the exit code tells programs."""
    folder = make_folder(tmp_path / "model", "pythia")
    sound = neoxrun("plan", "./model", "--device", "cpu", "--devices", "64GB", cwd=tmp_path).check_success()
    damage(folder)
    done = neoxrun("plan", "./model", "--device", "cpu", "--devices", "64GB", cwd=tmp_path).check_error(
        3, "model", out=sound.out
    )
    assert neoxrun("generate", "./model", "--prompt", "a", cwd=tmp_path).check_error(3).err == done.err


def test_what_does_not_fit_is_json(tmp_path: Path) -> None:
    result = neoxrun("plan", "20B", "--devices", "1x24GB", "--json", cwd=tmp_path)
    values = json.loads(result.out)
    result.check_error(2, values["message"], values["hint"], out=result.out)
    assert values["fits"] is False
    assert values["need"]["free_bytes"] == 24 * 2**30
