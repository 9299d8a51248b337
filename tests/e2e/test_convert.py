"""Folders of weights through the installed command: transformers loads what is written, and faults leave no half."""

from __future__ import annotations

import json
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from neoxrun import LLM
from support.checkpoints import tiny
from support.command import neoxrun, running, wait_for
from support.conversions import make_folder, read_receipt, same_files
from support.paths import DEMO
from support.snapshots import Snapshot

TEXT = "def read_file(path):\n    with open(path) as file:\n"
CONFIG = ("--config", "demo")


def convert(source: Path, target: Path, *arguments: object) -> None:
    """The folders that a conversion writes say themselves what they are; the demo model's does not."""
    configuration = CONFIG if source == DEMO else ()
    neoxrun("convert", source, target, *arguments, *configuration).check_success()


def test_there_and_back_with_transformers_as_the_judge(tmp_path: Path) -> None:
    """The demo model is two ranks' files whose norms agree: every rule is exact."""
    hf, two, back = tmp_path / "hf", tmp_path / "two", tmp_path / "back"
    convert(DEMO, hf, "--to", "huggingface", "--shard-size", "3MB")
    convert(hf, two, "--to", "neox", "--tp", "2")
    convert(two, back, "--to", "huggingface", "--shard-size", "3MB")
    assert len(list(hf.glob("*.safetensors"))) > 2
    assert same_files(hf, back, "*.safetensors*")
    assert same_files(hf, back, "*token*.json")
    for folder in (hf, two, back):
        receipt = read_receipt(folder)
        assert receipt["equal"]
        assert receipt["logits"]["largest_difference"] == 0

    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    ids = tokenizer.encode(TEXT)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(theirs[at, ids[at + 1]]) for at in range(len(ids) - 1)]
    with LLM(str(two), dtype="fp32") as llm:
        half = len(TEXT) // 2
        (scored,) = llm.score([(TEXT[:half], TEXT[half:])])
    assert tokenizer.decode(ids) == TEXT
    first = len(tokenizer.encode(TEXT[:half]))
    assert scored.logprob == pytest.approx(sum(expected[first - 1 :]), abs=1e-3)
    assert neoxrun("diff", hf, two, "--logits").check_success().out == (
        "76 tensors: 76 equal\nlogits: 0 apart at most, over 121 tokens; the most likely token is the same at 121\n"
    )


def test_inspect(tmp_path: Path, snapshot: Snapshot) -> None:
    link = tmp_path / "mine"
    link.symlink_to(DEMO)
    result = neoxrun("inspect", link).check_success()
    snapshot(result)
    content = json.loads(neoxrun("inspect", link, "--json", "--tensors").check_success().out)
    assert (content["kind"], content["tp"], content["layers"], content["iteration"]) == ("layers", 2, 6, 5000)
    assert content["parameters"] == 3_456_000
    assert len(content["tensors"]) == 76
    assert content["odd"] == []


def test_diff_says_by_its_exit_code(tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "bf16", "--to", "neox", "--tp", "2", "--dtype", "bf16")
    result = neoxrun("diff", DEMO, tmp_path / "bf16", *CONFIG)
    assert (result.code, result.err) == (6, "")
    assert result.out.endswith("76 tensors: 76 close\n")
    neoxrun("diff", DEMO, tmp_path / "bf16", *CONFIG, "--allow-close").check_success()
    result = neoxrun("diff", DEMO, tmp_path / "bf16", *CONFIG, "--json")
    assert result.code == 6
    assert json.loads(result.out)["states"] == {"close": 76}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 40 MB, which takes a moment to write."""
    shape = {"num_layers": 8, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    return make_folder(tmp_path_factory.mktemp("large") / "source", tiny(**shape), rows=2048)


@pytest.mark.parametrize("kind", ["neox", "huggingface"])
def test_killed_and_continued(large: Path, tmp_path: Path, kind: str) -> None:
    target, partial = tmp_path / "out", tmp_path / "out.partial"
    arguments = ["convert", large, target, "--to", kind, "--config", large / "model.yml"]
    arguments += ["--tp", "2"] if kind == "neox" else ["--shard-size", "2MB"]

    def written() -> list[Path]:
        return [path for path in partial.rglob("*") if re.match(r"layer_|model-", path.name) and path.is_file()]

    with running(*arguments) as command:
        wait_for(lambda: len([path for path in written() if ".writing" not in path.parts]) > 2, 60, lambda: "nothing")
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
    assert not target.exists()
    kept = {path: path.stat().st_mtime_ns for path in written() if ".writing" not in path.parts}
    result = neoxrun(*arguments).check_success()
    assert f"continuing in {partial}" in result.err
    assert not partial.exists()
    assert read_receipt(target)["equal"]
    for path, written_at in kept.items():
        assert (target / path.relative_to(partial)).stat().st_mtime_ns == written_at
    assert not (target / ".writing").exists()


@pytest.mark.parametrize("kind", ["neox", "huggingface"])
def test_one_layer_is_in_memory(tmp_path: Path, kind: str) -> None:
    """Private memory: mapped pages of files are the system's to take back."""
    shape = {"num_layers": 8, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 8}
    source = make_folder(tmp_path / "source", tiny(**shape), rows=256, dtype=torch.float16)
    layer = 12 * 1280**2 * 4
    peak = 0
    with running("convert", source, tmp_path / "out", "--to", kind, "--config", source / "model.yml") as command:
        while command.process.poll() is None:
            status = Path(f"/proc/{command.process.pid}/status").read_text()
            if found := re.search(r"RssAnon:\s+(\d+) kB", status):
                peak = max(peak, int(found[1]) * 1024)
            time.sleep(0.005)
        command.finish().check_success()
    assert 8 * layer > 600e6, "the whole model would show"
    assert peak < layer + 400e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("kind", ["neox", "huggingface"])
def test_a_file_that_cannot_grow(large: Path, tmp_path: Path, kind: str, snapshot: Snapshot) -> None:
    """The system's limit of a file's size, as a full disk: the message names the file, and nothing half is left."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    arguments = ["convert", large, tmp_path / "out", "--to", kind, "--config", large / "model.yml", "-q"]
    result = neoxrun(*arguments, preexec=limit).check_error(4, "File too large", "what has been written is kept")
    snapshot(result)
    assert not (tmp_path / "out").exists()
    neoxrun(*arguments).check_success()
    assert read_receipt(tmp_path / "out")["equal"]


def test_interrupted(large: Path, tmp_path: Path) -> None:
    with running("convert", large, tmp_path / "out", "--to", "neox", "--config", large / "model.yml") as command:
        wait_for(lambda: (tmp_path / "out.partial").exists(), 60, lambda: "not begun")
        time.sleep(0.1)
        command.interrupt()
        command.finish().check_error(130, "interrupted")
    assert not (tmp_path / "out").exists()


REFUSALS = {
    "tp of hugging face": (("--to", "huggingface", "--tp", "2"), 2, "--tp"),
    "shards of gpt-neox": (("--to", "neox", "--shard-size", "5GB"), 2, "--shard-size"),
    "no size": (("--to", "huggingface", "--shard-size", "much"), 2, "5GB"),
    "no such split": (("--to", "neox", "--tp", "3"), 2, "num_attention_heads 8"),
    "another model": (("--to", "neox", "--set", "num_layers=5"), 3, "6 transformer layers"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str, tmp_path: Path, snapshot: Snapshot) -> None:
    arguments, code, says = REFUSALS[case]
    result = neoxrun("convert", DEMO, tmp_path / "out", *arguments, *CONFIG)
    snapshot(result.check_error(code, says))
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, says in (("nowhere", "does not exist"), ("file", "is not a folder")):
        result = neoxrun("convert", source, "out", "--to", "neox", cwd=tmp_path).check_error(3, says)
        assert "Name a folder that holds weights" in result.err
        assert "--checkpoint" not in result.err, "convert has no such option"


def test_a_configuration_that_names_a_missing_tokenizer(tmp_path: Path) -> None:
    config = yaml.safe_load(DEMO.with_suffix(".yml").read_text()) | {"vocab_file": "/nowhere/tokenizer.json"}
    (tmp_path / "model.yml").write_text(yaml.safe_dump(config))
    target = tmp_path / "out"
    neoxrun("convert", DEMO, target, "--to", "huggingface", "--config", tmp_path / "model.yml").check_success()
    assert (target / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()


def test_a_target_that_exists(tmp_path: Path, snapshot: Snapshot) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = neoxrun("convert", DEMO, tmp_path, "--to", "neox", *CONFIG)
    snapshot(result.check_error(4, "exists already"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_inspect_of_nothing(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot(neoxrun("inspect", tmp_path / "nowhere").check_error(3, "does not exist"))
