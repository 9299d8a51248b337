"""Checkpoint files that are damaged, foreign or unsafe: what the ranks find when they open them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.command import neoxrun
from support.paths import DEMO
from support.snapshots import Snapshot

SHARD = "layer_03-model_01-model_states.pt"
PROMPT = ("--prompt", "import os", "--maximum-tokens", "2", "--dtype", "fp32")


class Malicious:
    """A pickle that runs a command when it is opened carelessly."""

    def __init__(self, witness: Path) -> None:
        self._command = f"touch {witness}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model's checkpoint."""
    shutil.copytree(DEMO, tmp_path / "demo")
    return tmp_path / "demo"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def other_shape(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    name = "mlp.dense_4h_to_h.weight"
    state[name] = state[name][:, :10].clone()
    torch.save(state, path)


def without_a_tensor(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["attention.dense.bias"]
    torch.save(state, path)


def not_a_number(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["attention.dense.weight"][5, 5] = float("nan")
    torch.save(state, path)


def a_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html>\n<html><body>Too many requests</body></html>\n")


# What is done to a shard, and the facts that the message must hold.
DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "cut off": (cut_off, (SHARD,)),
    "other shape": (other_shape, ("mlp.dense_4h_to_h.weight", "[192, 10]", "[192, 384]")),
    "tensor missing": (without_a_tensor, ("attention.dense.bias",)),
    "not a number": (not_a_number, ("attention.dense.weight", "NaN", " 1 ")),
    "web page": (a_web_page, (SHARD, "web page")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shard(damage: str, folder: Path, snapshot: Snapshot) -> None:
    act, facts = DAMAGES[damage]
    path = folder / "global_step5000" / SHARD
    act(path)
    result = neoxrun("generate", "demo", "--checkpoint", folder, "--tp", "1", *PROMPT)
    snapshot(result.check_error(3, *facts, where=str(path)))


def test_all_files_of_a_rank_missing(folder: Path, snapshot: Snapshot) -> None:
    for path in folder.rglob("*-model_01-*"):
        path.unlink()
    result = neoxrun("generate", "demo", "--checkpoint", folder, "--tp", "1", *PROMPT)
    snapshot(result.check_error(3, "layer_*-model_01-*", where=str(folder / "global_step5000")))


def test_malicious_pickle_is_refused_by_every_rank(folder: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    path = folder / "global_step5000" / SHARD
    state = torch.load(path, weights_only=True)
    torch.save(state | {"extra": Malicious(tmp_path / "witness")}, path)
    result = neoxrun("generate", "demo", "--checkpoint", folder, "--tp", "2", *PROMPT)
    snapshot(result.check_error(3, "posix.system", where=str(path)))
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("entries", [500, 2500])
def test_tokenizer_of_another_model(entries: int, tmp_path: Path, snapshot: Snapshot) -> None:
    """One that is too large has words without a row (added tokens may lack one); one that is far too small leaves rows
    that no padding explains.
    """
    content = json.loads((DEMO / "tokenizer.json").read_text())
    if entries > 2048:
        content["model"]["vocab"] |= {f"extra{i}": 2048 + i for i in range(entries - 2048)}
    else:
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i < entries}
        kept = content["model"]["vocab"]
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in content["model"]["merges"]]
        content["model"]["merges"] = [pair for pair in pairs if "".join(pair) in kept and set(pair) <= kept.keys()]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    result = neoxrun("generate", "demo", "--tokenizer", path, "--tp", "1", *PROMPT)
    snapshot(result.check_error(3, f" {entries} ", "2048", where=str(path)))
