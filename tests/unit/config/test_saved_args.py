"""What torch.save wrote next to the tensors, read without torch; nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from neoxrun.config.saved_args import read_saved_args, read_without_tensors
from neoxrun.errors import CheckpointError
from support.paths import FIXTURES

ARGS = {
    "num_layers": 3,
    "hidden_size": 64,
    "tokenizer_type": "HFTokenizer",
    "fp16": {"enabled": True},
    "list": [1, 2.5],
}


def test_the_options_that_gpt_neox_saved() -> None:
    path = FIXTURES / "upstream_tp2_pp2" / "global_step150000" / "mp_rank_00_model_states.pt"
    assert read_saved_args(path) == {
        "num_layers": 3,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "make_vocab_size_divisible_by": 256,
        "padded_vocab_size": 512,
        "tokenizer_type": "HFTokenizer",
        "model_parallel_size": 2,
    }


def test_tensors_and_objects_are_stand_ins(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    content = {
        "module": OrderedDict(a=torch.ones(2), b=torch.nn.Parameter(torch.ones(3))),
        "random": ("MT19937", np.arange(3, dtype=np.uint32)),
        "args": {**ARGS, "dropped": torch.ones(1)},
    }
    torch.save(content, path)
    assert read_saved_args(path) == ARGS
    assert list(read_without_tensors(path)["module"]) == ["a", "b"]


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {os.environ['NEOXRUN_TEST_VICTIM']}",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    monkeypatch.setenv("NEOXRUN_TEST_VICTIM", str(victim))
    path = tmp_path / "evil.pt"
    torch.save({"evil": _Evil(), "args": {"num_layers": 1}}, path)
    assert read_saved_args(path) == {"num_layers": 1}
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the file would have"


@pytest.mark.parametrize("content", [b"", b"\x80\x02}.", b"hello"])
def test_what_is_no_archive_has_no_options(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    path.write_bytes(content)
    assert read_saved_args(path) == {}


@pytest.mark.parametrize("content", [pickle.dumps([1]), pickle.dumps({"args": 3}), pickle.dumps({})])
def test_other_archives_have_no_options(content: bytes, tmp_path: Path) -> None:
    assert read_saved_args(_archive(tmp_path, content)) == {}


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02}(X\xff\xff\xff\x7f", b"0", b"garbage"])
def test_damaged_pickles_are_reported(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_saved_args(_archive(tmp_path, content))
    assert caught.value.code == "damaged_file"


def _archive(folder: Path, content: bytes) -> Path:
    path = folder / "one.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/data.pkl", content)
    return path
