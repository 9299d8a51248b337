"""What tells one model's answers from another's."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from neoxrun.checkpoint import fingerprint
from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Settings
from neoxrun.config.shipped import shipped_dir
from support.lora import adapter_tensors, write_peft_folder


def test_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    """A changed weight, tokenizer, network or number format is another model; the number of ranks is not."""
    demo = shipped_dir() / "demo"
    shutil.copytree(demo, tmp_path / "demo")
    settings = load_settings(
        ["demo"], checkpoint=str(tmp_path / "demo"), tokenizer=str(tmp_path / "demo/tokenizer.json")
    )

    def of(settings: Settings = settings, random_weights: bool = False, **how: Any) -> str:
        found = None if random_weights else find_configured_checkpoint(settings)
        usual = {"tp": 2, "pp": 1, "device_kind": "cpu", "dtype": "fp32"}
        return str(fingerprint.describe_checkpoint(settings, found, **usual | how)["fingerprint"])

    def quick(settings: Settings = settings) -> str:
        return fingerprint.tell_apart(settings, random_weights=False)

    first, quick_first = of(), quick()
    assert first == of()
    assert quick(dataclasses.replace(settings, merge="average")) == quick_first
    model = settings.model
    others = [
        of(dtype="bf16"),
        of(tp=1),  # the demo model was saved by two ranks, and merging them rounds
        of(dataclasses.replace(settings, merge="average"), tp=1),
        *(of(random_weights=True, **how) for how in ({}, {"tp": 1}, {"pp": 2}, {"device_kind": "cuda"})),
        of(dataclasses.replace(settings, model=dataclasses.replace(model, norm_epsilon=1e-6))),
    ]
    adapter = write_peft_folder(tmp_path / "adapter", adapter_tensors(model))
    adapted = dataclasses.replace(settings, adapter=adapter)
    others.append(of(adapted))
    quick_adapted = [quick(adapted)]
    write_peft_folder(adapter, adapter_tensors(model), lora_alpha=1)  # the same tensors, another scale
    others.append(of(adapted))
    quick_adapted.append(quick(adapted))
    assert len({quick_first, *quick_adapted}) == 3
    split = dataclasses.replace(settings, model=dataclasses.replace(model, pipe_parallel_size=2))
    assert of(split) == first
    assert of(tp=1) == of(tp=4)
    assert of(dataclasses.replace(settings, merge="average")) == first, "at its own size nothing is merged"
    assert of(pp=2) == first
    (layer,) = (tmp_path / "demo").glob("*/layer_03-model_01*")
    weights = torch.load(layer)
    next(iter(weights.values())).view(-1)[-1] += 1
    torch.save(weights, layer)
    others.append(of())
    quick_others = [quick()]
    vocabulary = tmp_path / "demo" / "tokenizer.json"
    vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
    others.append(of())
    quick_others += [quick(), quick(dataclasses.replace(settings, model=dataclasses.replace(model, rotary_pct=0.5)))]
    assert len({quick_first, *quick_others}) == 1 + len(quick_others)
    (tmp_path / "demo" / "added_tokens.json").write_text("{}")  # it says how the tokenizer is used
    others.append(of())
    assert len({first, *others}) == 1 + len(others)


def saved(path: Path, tensors: dict[str, torch.Tensor], how: str) -> None:
    if how == "safetensors":
        safetensors.torch.save_file(tensors, path)
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(how != "zip without checksums")
    torch.save(tensors, path, _use_new_zipfile_serialization=how != "before zip")
    torch.serialization.set_crc32_options(before)


@pytest.mark.parametrize("how", ["safetensors", "zip", "zip without checksums", "before zip"])
def test_any_one_tensor_tells_files_apart(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tensors of 1 MB, one changed at a time: none is passed over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = {f"layer.{number}": torch.zeros(2**18) for number in range(20)}
    found, sampled = set(), set()
    for number in (None, 3, 11, 17):
        changed = tensors if number is None else tensors | {f"layer.{number}": torch.ones(2**18)}
        saved(tmp_path / "weights", changed, how)
        found.add(fingerprint._digest(tmp_path / "weights"))
        sampled.add(fingerprint._sampled_digest(tmp_path / "weights"))
    assert (len(found), len(sampled)) == (4, 4)


def test_checksums_are_remembered_while_a_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 1000)
    first = fingerprint._digest(path)
    assert not (tmp_path / "cache").exists()  # it may still be written to, within a tick of the clock
    monkeypatch.setattr(fingerprint, "_SETTLED_SECONDS", -1.0)
    assert fingerprint._digest(path) == first
    (note,) = (tmp_path / "cache" / "neoxrun" / "sha256").iterdir()
    state, digest = note.read_text().splitlines()
    assert digest == first == hashlib.sha256(b"a" * 1000).hexdigest()
    note.write_text(f"{state}\n{'0' * 64}\n")
    assert fingerprint._digest(path) == "0" * 64  # it was not read again
    note.write_text("\xff nonsense")
    assert fingerprint._digest(path) == first

    stat = path.stat()
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint._digest(path) == hashlib.sha256(b"b" * 1000).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # nothing can be kept there
    assert fingerprint._digest(path) == hashlib.sha256(b"b" * 1000).hexdigest()


def test_names_tell_checkpoints_apart() -> None:
    facts = {"folder": "/a/pythia-160m-step1000", "tag": None, "weights_fingerprint": "0123456789abcdef"}
    assert fingerprint.name_of_model("pythia-160m", facts) == "pythia-160m@step1000-01234567"
    assert fingerprint.name_of_model("pythia-160m", facts | {"folder": "/b/pythia-160m"}) == "pythia-160m@01234567"
    assert fingerprint.name_of_model("mine", facts | {"tag": "global_step7"}) == "mine@global_step7-01234567"
    assert fingerprint.name_of_model("pythia-160m", {"weights": "random, seed 1"}) == "pythia-160m@random"
