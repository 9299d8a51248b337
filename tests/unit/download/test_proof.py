"""What a file tells of itself: damage is found without a published checksum, and nothing in a file is executed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors.torch import save_file
from torch._weights_only_unpickler import _get_allowed_globals

from neoxrun.checkpoint.content import ALLOWED_GLOBALS, NUMPY_GLOBALS
from neoxrun.checkpoint.files import read_pickle
from neoxrun.download import proof
from neoxrun.errors import CheckpointError
from support.paths import FIXTURES, ROOT


def prove(path: Path, name: str | None = None) -> str | None:
    """What is wrong with a file; None if nothing is."""
    try:
        proof.prove_file(path, name or path.name)
    except CheckpointError as error:
        return error.message if error.where == str(path) else f"the path is wrong: {error.where}"
    return None


def weights(path: Path, **options: bool) -> Path:
    state = {
        "word_embeddings.weight": torch.arange(4000, dtype=torch.float16).reshape(40, 100),
        "norm.bias": torch.nn.Parameter(torch.randn(100)),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    torch.save(state, path, **options)
    return path


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return weights(tmp_path / "layer_00-model_00-model_states.pt")


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(1000.0), "b": torch.ones(3, 5, dtype=torch.bfloat16)}, path, {"format": "pt"})
    return path


def test_whole_files_of_every_kind_pass(layer: Path, tensors: Path, tmp_path: Path) -> None:
    legacy = weights(tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}', encoding="utf-8")
    (tmp_path / "readme.txt").write_text("<html>", encoding="utf-8")
    for path in (layer, tensors, legacy, tmp_path / "config.json", tmp_path / "readme.txt"):
        assert prove(path) is None


def test_parquet_files_that_were_cut_or_are_none(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "a"}]), path)
    whole = path.read_bytes()
    assert prove(path) is None
    wrong_footer = whole[:-8] + struct.pack("<I", len(whole)) + b"PAR1"
    for data in (whole[:-1], whole[1:], whole[: len(whole) // 2], b"PAR1", b"PAR1PAR1", wrong_footer):
        path.write_bytes(data)
        assert prove(path) == "test.parquet is not a complete Parquet file"
    for data in (b"", b"<html>log in</html>", b"version https://git-lfs.github.com/spec/v1"):
        path.write_bytes(data)
        assert prove(path) is not None


def test_shipped_and_reference_checkpoints_pass() -> None:
    files = [path for folder in (ROOT / "configs", FIXTURES) for path in folder.rglob("*.pt")]
    assert any(path.name.startswith("mp_rank") for path in files), "those hold numpy's random state"
    # The fixtures hold the answers, too: what the loader reads is what is proved.
    checked = [path for path in files if path.name.endswith("model_states.pt")]
    assert len(checked) > 20
    assert {path.name: prove(path) for path in checked if prove(path) is not None} == {}


@settings(max_examples=60)
@given(data=st.data())
def test_any_cut_and_any_wrong_byte_of_an_archive_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = weights(tmp_path_factory.mktemp("w") / "a.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert prove(path) is not None
    with zipfile.ZipFile(weights(path)) as archive:
        info = data.draw(st.sampled_from([info for info in archive.infolist() if info.file_size > 0]))
        with archive.open(info) as record:
            record.read(1)
        header = struct.unpack("<HH", whole[info.header_offset + 26 : info.header_offset + 30])
    first = info.header_offset + 30 + sum(header)
    offset = first + data.draw(st.integers(0, info.file_size - 1))
    path.write_bytes(
        whole[:offset] + bytes([whole[offset] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[offset + 1 :]
    )
    assert prove(path) is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x00" * 100, "not a"),
        (b"PK\x03\x04" + b"\x00" * 100, "damaged or was cut short"),
        (b"\x80\x02" + b"\xff" * 100, "damaged or was cut short"),
    ],
)
@pytest.mark.parametrize("name", ["layer_00-model_00-model_states.pt", "pytorch_model.bin", "model.safetensors"])
def test_what_is_no_weights_file_is_said(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / f".{name}.part"
    path.write_bytes(content)
    found = prove(path, name)
    assert found is not None
    if not name.endswith("safetensors") or "damaged" not in message:
        assert message in found
    assert found.startswith(name), "the part file's own name is nothing to the user"


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("legacy", "protocol"),
    [*((False, protocol) for protocol in range(6)), *((True, protocol) for protocol in range(2, 6))],
)
def test_a_pickle_that_asks_for_more_is_refused_and_not_executed(
    protocol: int, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    state = {"a": torch.ones(3), "b": Evil()}
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    message = prove(path) or ""
    assert "a.pt asks to run" in message
    assert "posix.mkdir" in message if protocol < 4 else "STACK_GLOBAL" in message
    assert not (tmp_path / "executed").exists()
    with pytest.raises(CheckpointError):
        read_pickle(path)


def test_only_the_archive_with_one_pickle_of_torch_is_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "not a file written by torch.save" in (prove(path) or "")
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    assert "not a file written by torch.save" in (prove(path) or "")
    subprocess.run(["gzip", "-k", str(weights(tmp_path / "b.pt"))], check=True)
    assert "not a file written by torch.save" in (prove(tmp_path / "b.pt.gz", "b.pt") or "")


def test_the_list_of_names_is_within_what_the_loader_takes() -> None:
    """Otherwise a file would pass here and be refused half an hour later."""
    loader = set(_get_allowed_globals()) | NUMPY_GLOBALS
    assert loader >= ALLOWED_GLOBALS


def test_numpys_random_state_passes_both(tmp_path: Path) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": None, "np_rng_state": np.random.RandomState(3).get_state()}, path)
    assert prove(path) is None
    read_pickle(path)


@given(cut=st.integers(0, 4_000))
def test_any_cut_of_safetensors_is_found(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "model.safetensors"
    save_file({"a": torch.arange(1000.0), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    assert prove(path) is None
    path.write_bytes(whole[:cut])
    assert prove(path) is not None
    path.write_bytes(whole + b"\0" * (cut + 1))
    assert prove(path) is not None


def test_safetensors_headers_that_contradict_themselves(tmp_path: Path) -> None:
    def written(header: object, size: int) -> str | None:
        text = json.dumps(header).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * size)
        return prove(path)

    def entry(first: int, last: int, shape: object = (2,), dtype: str = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}

    assert written({"a": entry(0, 8), "b": entry(8, 16)}, 16) is None
    assert written({}, 0) is None
    assert "do not begin where" in (written({"a": entry(0, 8), "b": entry(4, 12)}, 12) or "")
    assert "do not begin where" in (written({"a": entry(0, 8), "b": entry(12, 20)}, 20) or "")
    assert "does not match its shape" in (written({"a": entry(0, 12)}, 12) or "")
    assert "does not match its shape" in (written({"a": entry(8, 0)}, 8) or "")
    assert "not a number" in (written({"a": entry(0, 8, (-2,))}, 8) or "")
    assert "its tensors need" in (written({"a": entry(0, 8)}, 7) or "")
    for header in ([], {"a": 3}, {"a": {"dtype": "F32"}}, {"a": entry(0, 8) | {"shape": "x"}}):
        assert "not a complete safetensors file" in (written(header, 8) or "")


@pytest.mark.parametrize("content", [b"", b"{", b"<!doctype html>", b'{"a": 1}x', b"\xff\xfe"])
def test_json_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert "config.json" in (prove(path) or "")


def test_shards_elsewhere_are_missing(tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(b"private")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "here.bin").write_bytes(b"weights")
    shards = {"a": str(tmp_path / "outside.bin"), "b": "../outside.bin", "c": "here.bin", "d": "gone.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    assert proof.missing_shards(folder) == sorted([shards["a"], shards["b"], "gone.bin"])


def test_git_names_contents_as_git_does(layer: Path) -> None:
    done = subprocess.run(["git", "hash-object", str(layer)], capture_output=True, text=True, check=True)
    assert proof.git_blob_name(layer) == done.stdout.strip()


def test_every_byte_of_a_file_is_counted(layer: Path) -> None:
    counts: list[int] = []
    proof.sha256_of(layer, counts.append)
    assert sum(counts) == layer.stat().st_size
    counts.clear()
    proof.prove_file(layer, layer.name, counts.append)
    with zipfile.ZipFile(layer) as archive:
        assert sum(counts) == sum(info.file_size for info in archive.infolist())
