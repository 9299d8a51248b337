"""Files that a command is given and cannot use: configurations, prompts, outputs, tokenizers, checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import neoxrun
from support.paths import DEMO
from support.snapshots import Snapshot

PROMPT = ("--prompt", "import os")


def demo(*arguments: object) -> tuple[object, ...]:
    return ("generate", "demo", *arguments)


# Of each mistake the facts that its message must hold; how it is said is in snapshots/test_inputs.txt.
Case = tuple[tuple[object, ...], tuple[str, ...]]

CONFIGURATIONS: dict[str, tuple[tuple[str, ...], str | None, tuple[str, ...]]] = {
    "missing": (("nowhere.yml",), None, ("nowhere.yml",)),
    "misspelt name": (("pythia160m",), None, ("pythia-160m",)),
    "folder": (("folder",), None, ("folder",)),
    "unparseable": (("demo", "broken.yml"), "broken.yml:2", ()),
    "unknown key": (("demo", "unknown.yml"), "unknown.yml:2", ("num_layer", "num_layers")),
    "unsupported": (("demo", "alibi.yml"), "alibi.yml:1", ("pos_emb: alibi", "rotary")),
    "unsupported by flag": (("demo", "--set", "moe_num_experts=4"), None, ("moe_num_experts",)),
    "incomplete": (("--set", "hidden_size=8", "good.yml"), None, ("good.yml",)),
    "impossible": (("demo", "--set", "num_attention_heads=7"), None, ("hidden_size",)),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configuration(case: str, files: Path, snapshot: Snapshot) -> None:
    arguments, where, facts = CONFIGURATIONS[case]
    snapshot(neoxrun("generate", *arguments, *PROMPT, cwd=files).check_error(2, *facts, where=where))


PROMPTS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "missing": ("missing.txt", None, ("missing.txt",)),
    "empty": ("empty.txt", None, ("empty.txt",)),
    "folder": ("folder", None, ("folder", "Is a directory")),
    "not UTF-8": ("latin1.txt", "latin1.txt:2", ("UTF-8", "0xef", "8", "iconv")),
    "white space": ("blank.txt", None, ("blank.txt",)),
    "not JSON": ("cut.jsonl", "cut.jsonl:2", ("JSON", "column")),
    "not an object": ("list.jsonl", "list.jsonl:1", ("JSON object",)),
    "no text": ("wordless.jsonl", "wordless.jsonl:1", ('"prompt"', '"context"')),
    "two texts": ("both.jsonl", "both.jsonl:1", ('"prompt"', '"context"')),
    "unknown key": ("misspelt.jsonl", "misspelt.jsonl:1", ('"temprature"', "temperature")),
    "impossible parameter": ("cold.jsonl", "cold.jsonl:3", ("temperature", "-1")),
    "an id twice": ("twice.jsonl", "twice.jsonl:2", ("'x'", "line 1")),
    "no answers": ("none.jsonl", "none.jsonl:1", ('"n"',)),
    "half a character": ("half.jsonl", "half.jsonl:1", ("Unicode",)),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(case: str, files: Path, snapshot: Snapshot) -> None:
    name, where, facts = PROMPTS[case]
    snapshot(neoxrun(*demo("-i", name), cwd=files).check_error(4, *facts, where=where))
    assert not (files / f"{name}.output.jsonl").exists()


def test_prompts_from_stdin(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo("-i", "-"), stdin=" \n").check_error(4))


def test_prompt_that_is_no_text(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo("--prompt", os.fsdecode(b"caf\xe9"))).check_error(4, "Unicode"))


OUTPUTS = {
    "folder missing": ("nowhere/out.jsonl", "No such file or directory"),
    "a folder": ("folder", "Is a directory"),
    "under a file": ("good.txt/out.jsonl", "Not a directory"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_output(case: str, files: Path, snapshot: Snapshot) -> None:
    name, reason = OUTPUTS[case]
    snapshot(neoxrun(*demo("-i", "good.txt", "-o", name), cwd=files).check_error(4, name, reason))


@pytest.mark.parametrize("name", ["foreign.jsonl", "other.jsonl"])
def test_resuming_another_file(name: str, files: Path, snapshot: Snapshot) -> None:
    before = (files / name).read_text()
    result = neoxrun(*demo("-i", "good.txt", "-o", name, "--resume"), cwd=files)
    snapshot(result.check_error(4, where=f"{name}:1"))
    assert (files / name).read_text() == before


TOKENIZERS: dict[str, Case] = {
    "missing": (("--tokenizer", "nowhere.json"), ("nowhere.json", "--tokenizer")),
    "missing and no weights": (
        ("--tokenizer", "nowhere.json", "--random-weights"),
        ("nowhere.json", "--tokenizer"),
    ),
    "a web page": (("--tokenizer", "page.json"), ("page.json", "web page")),
    "cut off": (("--tokenizer", "cut.json"), ("cut.json", "JSON")),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizer(case: str, files: Path, snapshot: Snapshot) -> None:
    arguments, facts = TOKENIZERS[case]
    snapshot(neoxrun(*demo(*PROMPT, *arguments), cwd=files).check_error(4, *facts))


def remove_latest(folder: Path) -> None:
    (folder / "latest").unlink()
    (folder / "global_step1").mkdir()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def name_another_tag(folder: Path) -> None:
    (folder / "latest").write_text("global_step9")


def remove_shard(folder: Path) -> None:
    (folder / "global_step5000" / SHARD).unlink()


def empty_shard(folder: Path) -> None:
    (folder / "global_step5000" / SHARD).write_bytes(b"")


SHARD = "layer_03-model_01-model_states.pt"
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing": (shutil.rmtree, ("--checkpoint",)),
    "empty": (empty, ()),
    "latest missing": (remove_latest, ("`latest`", "global_step1, global_step5000", "--set iteration=5000")),
    "latest points nowhere": (name_another_tag, ("`latest`", "'global_step9'", "global_step5000")),
    "shard missing": (remove_shard, ("1 file", SHARD)),
    "shard empty": (empty_shard, (SHARD,)),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoint(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    damage, facts = CHECKPOINTS[case]
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    damage(folder)
    snapshot(neoxrun(*demo(*PROMPT, "--checkpoint", folder)).check_error(3, *facts))


def test_no_checkpoint_named(snapshot: Snapshot) -> None:
    snapshot(neoxrun(*demo(*PROMPT, "--set", "load=null")).check_error(2, "--checkpoint"))
