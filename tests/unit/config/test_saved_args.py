"""What torch.save wrote next to the tensors, read without torch; nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
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


NESTED = b"\x80\x02}X\x04\0\0\0args}X\x01\0\0\0x"  # {"args": {"x": ... and two "s" follow


def test_lists_that_hold_one_list_many_times_are_refused_at_once(tmp_path: Path) -> None:
    levels = b"".join(b"]q%c(h%ch%ce0" % (number + 1, number, number) for number in range(60))
    _check_refused(_archive(tmp_path, NESTED + b"]q\x000" + levels + b"h\x16ss."), "more than 100,000 values")
    assert read_saved_args(_archive(tmp_path, NESTED + b"]q\x000" + levels + b"h\x3css.")) == {}, "too deep"


def test_a_list_that_holds_itself_is_no_option(tmp_path: Path) -> None:
    assert read_saved_args(_archive(tmp_path, NESTED + b"]q\0h\0ass.")) == {}
    assert read_saved_args(_archive(tmp_path, NESTED + b"]q\0h\0ah\0ass.")) == {}


def test_a_memo_takes_no_more_memory_than_the_file(tmp_path: Path) -> None:
    path = _archive(tmp_path, b"\x80\x02}r\xff\xff\xff\x03.")  # the entry 2**26 - 1
    program = f"""
import resource
from pathlib import Path
from neoxrun.config.saved_args import read_saved_args
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_saved_args(Path({str(path)!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 50_000, "KiB"


def test_too_many_operations_are_refused(tmp_path: Path) -> None:
    _check_refused(_archive(tmp_path, b"\x80\x02" + b"N0" * (1 << 20) + b"}."), "more than 2,097,152 operations")


def test_a_pickle_changes_no_class(tmp_path: Path) -> None:
    """State for the class itself, as ``BUILD`` would set it, and what the next file then holds."""
    ordered = b"ccollections\nOrderedDict\n"
    state = b"}X\x05\0\0\0items"
    read_saved_args(_archive(tmp_path, b"\x80\x02" + ordered + b"N" + state + b"Ns\x86b0}."))
    read_saved_args(_archive(tmp_path, b"\x80\x02" + ordered + b")R" + state + b"Nsb."))
    path = _archive(tmp_path, NESTED + ordered + b")RX\x01\0\0\0yK\x05sss.")
    assert read_saved_args(path) == {"x": {"y": 5}}


def test_keys_that_are_no_texts_are_not_hashed(tmp_path: Path) -> None:
    pairs = b")" + b"2\x86".replace(b"2", b"q\0h\0") * 60  # ((...), (...)), 60 deep: 2**60 parts
    path = _archive(tmp_path, NESTED + b"}" + pairs + b"Nsss.")
    assert read_saved_args(path) == {}
    assert read_saved_args(_archive(tmp_path, pickle.dumps({"args": {"a": {1: 2}, "b": 3}}))) == {"b": 3}


def test_operations_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    _check_refused(_archive(tmp_path, b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"."), "")
    _check_refused(_archive(tmp_path, b"(S'touch victim'\nios\nsystem\n."), "operation STRING")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_save(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    inner: list[object] = []
    args: dict[str, object] = {**ARGS, "pair": (1, -70000), "text": "ä" * 300, "many": list(range(2000))}
    content = OrderedDict(args=args, inner=inner)
    inner.append((inner, content))  # holds itself
    torch.save(content, path, pickle_protocol=protocol)
    assert read_saved_args(path) == args


def _check_refused(path: Path, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        read_saved_args(path)
    assert caught.value.code == "damaged_file"
    assert says in caught.value.message
    assert time.monotonic() - start < 60, "seconds, on a busy machine"


def _archive(folder: Path, content: bytes) -> Path:
    path = folder / "one.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/data.pkl", content)
    return path
