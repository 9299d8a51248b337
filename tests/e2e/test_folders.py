"""A folder where a configuration is expected: Hugging Face's, and that of a GPT-NeoX run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.command import neoxrun
from support.configurations import write_config
from support.families import make_folder, transformers_answer
from support.paths import FIXTURES
from support.snapshots import Snapshot
from support.tiny_models import demo_tokenizer

PROMPT = "def main(argument):"


@pytest.mark.parametrize(
    ("family", "tp"),
    [("pythia", 1), ("redpajama-incite and open-calm", 2), ("transformers 5", 2)],
)
def test_a_folder_alone_gives_transformers_answer(family: str, tp: int, tmp_path: Path) -> None:
    make_folder(tmp_path / "model", family)
    line = {"prompt": PROMPT, "maximum_tokens": 12, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    arguments = ("./model", "-i", "prompts.jsonl", "-o", "-", "--dtype", "fp32", "--tp", tp)
    (record,) = neoxrun("generate", *arguments, cwd=tmp_path).check_success().records
    tokens, scores = transformers_answer(tmp_path / "model", demo_tokenizer().encode(PROMPT), 12)
    assert record["tokens"] == tokens
    torch.testing.assert_close([one["logprob"] for one in record["logprobs"]], scores, rtol=0, atol=1e-4)


def test_keys_that_are_not_read_are_listed_and_set_overrides(tmp_path: Path) -> None:
    """Of one that nobody knows no more is said than what transformers does."""
    make_folder(tmp_path / "model", "stablelm-base-alpha")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "some_odd_key": 1}))
    arguments = ("./model", "--prompt", PROMPT, "--maximum-tokens", 1, "--set", "rotary_pct=0.5", "-v")
    done = neoxrun("generate", *arguments, cwd=tmp_path).check_success()
    names = "architectures, bos_token_id, initializer_range, some_odd_key, use_cache"
    assert f"not read, as transformers computes the same logits without them for gpt_neox: {names}" in done.err
    assert "do not change" not in done.err
    assert "is overridden: rotary share is 0.25 in config.json, rotary_pct is 0.5 in the configuration" in done.err


@pytest.mark.parametrize("configs", [True, False])
def test_the_folder_of_a_run_gives_gpt_neox_s_text(configs: bool, tmp_path: Path) -> None:
    """With the files that a run keeps, or with the sizes in its mp_rank files and the rest named."""
    folder = tmp_path / "run"
    shutil.copytree(FIXTURES / "upstream_tp2_pp2", folder)
    if configs:
        kept = folder / "global_step150000" / "configs"
        kept.mkdir()
        (folder / "config.yml").rename(kept / "config.yml")
    else:
        (folder / "config.yml").unlink()
        rest = {"pos_emb": "rotary", "rotary_pct": 0.25, "gpt_j_residual": True, "no_weight_tying": True}
        write_config(tmp_path, {**rest, "bias_gelu_fusion": True}, "rest.yml")
    sources = ["run"] if configs else ["run", "rest.yml"]
    (expected,) = json.loads((folder / "greedy.json").read_text())
    arguments = ("--prompt", expected["context"], "--temperature", 0, "--maximum-tokens", expected["length"], "-o", "-")
    (record,) = neoxrun("generate", *sources, *arguments, "--dtype", "fp32", cwd=tmp_path).check_success().records
    assert record["text"] == expected["text"]


def test_numbered_files_without_their_index(tmp_path: Path) -> None:
    """Complete by their numbers they are a model; otherwise the missing one is named, by every command."""
    folder = make_folder(tmp_path / "model", "pythia")
    single = folder / "model.safetensors"
    tensors = load_file(single)
    single.unlink()
    names = sorted(tensors)
    parts = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for name, held in parts.items():
        save_file({key: tensors[key].clone() for key in held}, folder / name)
    arguments = ("generate", "./model", "--prompt", PROMPT, "--maximum-tokens", 2)
    done = neoxrun(*arguments, cwd=tmp_path).check_success()
    assert f"{folder} has no index of its 2 files of weights" in done.err
    assert "There is no index of the 2 files of weights" in neoxrun("inspect", "model", cwd=tmp_path).out
    gone = next(iter(parts))
    (folder / gone).unlink()
    says = f"1 file is missing from the checkpoint: {gone}"
    neoxrun(*arguments, cwd=tmp_path).check_error(3, says, where=str(folder))
    assert says in neoxrun("inspect", "model", cwd=tmp_path).out
    neoxrun("download", "--verify", "model", cwd=tmp_path).check_error(3, gone, out=f"{gone}  it is missing\n")


def test_a_folder_without_a_tokenizer(tmp_path: Path, snapshot: Snapshot) -> None:
    folder = make_folder(tmp_path / "model", "pythia")
    (folder / "tokenizer.json").unlink()
    done = neoxrun("generate", "./model", "--prompt", "a", cwd=tmp_path)
    snapshot(done.check_error(4), replace={str(tmp_path): "FOLDER"})


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_not_applied(alone: bool, tmp_path: Path) -> None:
    """Next to a model a warning tells; alone it is refused by name."""
    folder = make_folder(tmp_path / "model", "pythia")
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    if alone:
        (folder / "model.safetensors").unlink()
    done = neoxrun("generate", "./model", "--prompt", "a", "--maximum-tokens", 1, cwd=tmp_path)
    if alone:
        done.check_error(3, "an adapter (LoRA), not a model", where=str(folder / "adapter_model.safetensors"))
    else:
        (line,) = (line for line in done.check_success().err.splitlines() if "adapter" in line)
        assert (
            line == f"warning: {folder}/adapter_model.safetensors belongs to an adapter (LoRA), which --adapter applies"
        )


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, 3),
        ("config.json", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, 2),
        ("config.json", {"hidden_act": "relu"}, 3),
        ("adapter_config.json", {"base_model_name_or_path": "databricks/dolly-v2-3b"}, 3),
        ("model-q4.gguf", {}, 3),
    ],
    ids=["quantised", "scaled", "relu", "adapter", "gguf"],
)
def test_what_cannot_run_is_told_in_one_message(
    name: str, content: dict[str, object], code: int, tmp_path: Path, snapshot: Snapshot
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_text(json.dumps({"model_type": "gpt_neox", **content}))
    done = neoxrun("generate", "./model", "--prompt", "a", cwd=tmp_path)
    snapshot(done.check_error(code), replace={str(tmp_path): "FOLDER"})


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    neoxrun("plan", folder).check_error(3, "Git LFS pointer", "git lfs pull", where=str(folder / "config.json"))
