"""``--adapter`` through the installed command and the Python API: merged at any split, told apart, refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neoxrun import LLM
from neoxrun.config.reader import load_settings
from support.checkpoints import TINY
from support.command import neoxrun
from support.lora import adapter_tensors, write_peft_folder
from support.paths import DEMO

PROMPT = ("--prompt", "import os", "--temperature", 0, "--maximum-tokens", 12, "--dtype", "fp32", "-q")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the demo model, large enough to change its texts."""
    tensors = adapter_tensors(load_settings(["demo"]).model, scale=0.2)
    return write_peft_folder(tmp_path_factory.mktemp("adapter"), tensors)


def test_the_same_text_at_every_split_and_from_python(adapter: Path) -> None:
    plain = neoxrun("generate", "demo", *PROMPT).check_success().out
    texts = [
        neoxrun("generate", "demo", *PROMPT, "--adapter", adapter, *split).check_success().out
        for split in ((), ("--tp", 2), ("--pp", 2))
    ]
    assert texts[0] == texts[1] == texts[2] != plain
    with LLM("demo", adapter=adapter, dtype="fp32", quiet=True) as llm:
        text = llm.generate("import os", temperature=0, maximum_tokens=12).text
    assert text in texts[0]


def test_scores_and_results_tell_the_adapter(adapter: Path, tmp_path: Path) -> None:
    """Other scores; what made them is noted; and records of the model without it are not continued."""
    (tmp_path / "texts.txt").write_text("import os\n")
    words = ("score", "demo", "-i", "texts.txt", "-o", "scores.jsonl", "--level", "document", "-q")
    neoxrun(*words, cwd=tmp_path).check_success()
    plain = json.loads((tmp_path / "scores.jsonl").read_text())
    refused = neoxrun(*words, "--adapter", adapter, cwd=tmp_path)
    refused.check_error(4, "different run")
    neoxrun(*words, "--adapter", adapter, "--overwrite", cwd=tmp_path).check_success()
    assert abs(json.loads((tmp_path / "scores.jsonl").read_text())["logprob"] - plain["logprob"]) > 0.01
    assert str(adapter) in json.loads((tmp_path / "scores.jsonl.meta.json").read_text())["checkpoint"]


def test_a_merged_model_needs_no_adapter(adapter: Path, tmp_path: Path) -> None:
    """Converted to fp32, so that nothing is rounded, it gives the text of the adapter merged at load."""
    words = ("--to", "huggingface", "--adapter", adapter, "--dtype", "fp32", "--config", "demo")
    neoxrun("convert", DEMO, tmp_path / "merged", *words).check_success()
    receipt = json.loads((tmp_path / "merged" / "neoxrun.receipt.json").read_text())
    assert receipt["adapter"]["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert receipt["logits"]["largest_difference"] < 1e-3
    text = neoxrun("generate", "demo", *PROMPT, "--adapter", adapter).check_success().out
    assert neoxrun("generate", "demo", "--checkpoint", tmp_path / "merged", *PROMPT).check_success().out == text


def test_what_is_refused(adapter: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    neoxrun("generate", "demo", *PROMPT, "--adapter", missing).check_error(3, "no folder", where=str(missing))
    other = write_peft_folder(tmp_path / "other", adapter_tensors(TINY))
    neoxrun("plan", "demo", "--adapter", other).check_error(
        3, "has shape", "trained on models/base", where=str(other / "adapter_model.safetensors")
    )
    neoxrun("generate", "demo", *PROMPT, "--adapter", adapter, "--random-weights").check_error(2, "cannot be combined")
    neoxrun("generate", adapter, *PROMPT).check_error(3, "an adapter (LoRA), not a model", f"--adapter {adapter}")
