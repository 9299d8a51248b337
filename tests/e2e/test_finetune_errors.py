"""How `neoxrun finetune` fails: one message, its exit code, and the last checkpoint kept."""

from __future__ import annotations

import json
import os
import resource
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.command import neoxrun, running, wait_for
from support.paths import DEMO, ROOT
from support.training_data import write_rows

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

README = ("finetune", "demo", "--data", ROOT / "README.md", "--device", "cpu")
SMALL = ("--seq-length", 32, "--batch-size", 1, "-q")

# As on a machine where a package is not installed.
WITHOUT_DEEPSPEED = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] == "deepspeed" else find(name, *rest)
"""


def test_deepspeed_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_DEEPSPEED)
    done = neoxrun(*README, "--output", tmp_path / "run", env={"PYTHONPATH": str(tmp_path)})
    done.check_error(2, "finetune needs deepspeed, which is not installed", "pip install 'neoxrun[finetune]'")


def test_memory_is_too_small(tmp_path: Path) -> None:
    size = ("--batch-size", 10**6, "--micro-batch-size", 10**6)
    done = neoxrun(*README, "--output", tmp_path / "run", "--seq-length", 512, *size)
    done.check_error(2, "does not fit on 1 rank", "What would fit: --micro-batch-size 1")


def test_pipeline_stages_are_refused(tmp_path: Path) -> None:
    done = neoxrun(*README, "--output", tmp_path / "run", "--pp", 2)
    done.check_error(2, "--pp 2: finetune does not divide a model into pipeline stages", "Use --tp")


def test_data_are_missing(tmp_path: Path) -> None:
    done = neoxrun("finetune", "demo", "--data", tmp_path / "a.jsonl", "--device", "cpu", "--output", tmp_path / "run")
    done.check_error(4, f"there is no file {tmp_path / 'a.jsonl'}", where="--data")


def test_the_vocabularies_disagree(tmp_path: Path) -> None:
    """A tokenizer with a token that the model does not have, in a text that uses it."""
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": 5000, "content": "<new>", "special": True, **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x = 1"}, {"text": "a <new> b"}])
    words = ("--data", path, "--tokenizer", tmp_path / "tokenizer.json", "--output", tmp_path / "run")
    done = neoxrun("finetune", "demo", *words, "--device", "cpu")
    done.check_error(4, "but the model has only ids 0 to 2047", "--tokenizer FILE", where=f"{path}:2")


def test_a_loss_is_not_a_number(tmp_path: Path) -> None:
    run = tmp_path / "run"
    wild = ("--lr", 1e30, "--warmup", 0, "--gradient-clipping", 0, "--steps", 30, "--save-interval", 1)
    done = neoxrun(*README, *SMALL, "--output", run, *wild)
    newest = (run / "latest").read_text()
    done.check_error(5, "not a number", "of the training data, on rank 0", f"{run / newest} is kept: --resume")


def test_a_loss_jumps(tmp_path: Path) -> None:
    """Texts that the model knows, and one that is noise."""
    run = tmp_path / "run"
    rows = [{"text": "import os\nimport sys\n" * 6}] * 60
    rows.append({"text": "zq 語 %%^ Xj9 Ж " * 10})
    path = write_rows(tmp_path / "a.jsonl", rows)
    words = ("--data", path, "--no-pack", "--seq-length", 40, "--batch-size", 1, "--device", "cpu", "-q")
    still = ("--lr", 1e-9, "--seed", 2, "--save-interval", 5)
    done = neoxrun("finetune", "demo", *words, *still, "--output", run)
    step = 1 + len((run / "metrics.jsonl").read_text().splitlines())
    where = f"for row {step - 1} of the training data, on rank 0"
    newest = (run / "latest").read_text()
    done.check_error(5, "the loss has jumped to ", f"in step {step}", where, f"{run / newest} is kept: --resume")


def test_a_checkpoint_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """The first one is whole; the limit that makes the second one fail is set when the first one is there."""
    run = tmp_path / "run"
    words = (*README, *SMALL, "--steps", 2000, "--save-interval", 20, "--output", run)
    with running(*words, preexec=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)) as command:
        wait_for((run / "latest").is_file, 120, lambda: f"no checkpoint: {command.process.poll()}")
        for process in command.processes():
            resource.prlimit(process, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        result = command.finish()
        command.check_all_gone()
    newest = run / (run / "latest").read_text()
    result.check_error(4, "the run's folder cannot be written", f"{newest} is whole: --resume continues from it.")
    assert not list(run.glob("*.writing"))
    assert (newest / "neoxrun.checkpoint.json").is_file()


def test_a_folder_is_that_of_one_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*README, *SMALL, "--steps", 5000, "--save-interval", 3, "--output", run)
    with running(*words) as command:
        wait_for((run / "latest").is_file, 120, lambda: f"no checkpoint: {command.process.poll()}")
        second = neoxrun(*words, "--resume")
        second.check_error(4, "another neoxrun is training into this folder", "its last checkpoint is kept")
        assert command.process.poll() is None, "the first continues"
        os.kill(command.process.pid, signal.SIGTERM)
        assert command.finish().code == 130
