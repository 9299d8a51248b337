"""What a run of `neoxrun finetune` leaves is a model, or an adapter, for the other commands, and can be continued."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.colours import write_tasks
from support.command import Result, neoxrun
from support.evaluations import results_of
from support.paths import ROOT

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

TRAIN = ("finetune", "demo", "--data", ROOT / "README.md", "--seq-length", 32, "--steps", 4, "--save-interval", 2)
BATCH = ("--batch-size", 2, "--device", "cpu", "-q")
# The demo model is trained with dropout otherwise, as its configuration says.
STILL = ("--set", "hidden_dropout=0", "--set", "attention_dropout=0")
PROMPT = ("--prompt", "import os", "--temperature", 0, "--maximum-tokens", 4, "--dtype", "fp32", "-q")
EVENTS = "events.out.tfevents.*"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains the whole model, watched by whatever is installed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    watched = ["--tensorboard"] if find_spec("tensorboard") else []
    watched += ["--wandb", "project"] if find_spec("wandb") else []
    words = (*TRAIN, *BATCH, *STILL, "--output", run, "--lr", 1e-3, *watched)
    neoxrun(*words, env={"WANDB_MODE": "offline"}).check_success()
    return run


@pytest.fixture(scope="module")
def trained_adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run that trains an adapter and evaluates it on the same text, and what its command said."""
    run = tmp_path_factory.mktemp("adapter") / "run"
    words = ("--lora", "--lr", 1e-1, "--eval-data", ROOT / "README.md", "--eval-iters", 1, "--eval-interval", 0)
    return run, neoxrun(*TRAIN, *BATCH, "--output", run, *words).check_success()


@pytest.fixture(scope="module")
def adapter(trained_adapter: tuple[Path, Result]) -> Path:
    """The folder of that run."""
    return trained_adapter[0]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def score(*model: object, text: Path) -> float:
    """The log probability of a text."""
    text.write_text("import os\nimport sys\n")
    words = ("--level", "document", "--dtype", "fp32", "-q", "-i", text, "-o", "-")
    records = neoxrun("score", *model, *words).check_success().records
    return sum(record["logprob"] for record in records if "logprob" in record)


def evaluate(*model: object, tasks: Path, output: Path) -> tuple[list[Any], str]:
    """What the model answers to the documents of a task, and the checksum of its weights."""
    asked = ("--tasks", "colours", "--include-path", tasks, "--output", output, "--log-samples")
    table = neoxrun("evaluate", *model, *asked, "--dtype", "fp32", "-q").check_success().out
    assert [line.split()[0] for line in table.splitlines()] == ["task", "colours"]
    (samples,) = output.rglob("samples_colours_*.jsonl")
    answers = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    return answers, results_of(output)["neoxrun"]["checkpoint"]["fingerprint"]


def test_a_run_is_a_model_for_the_other_commands(whole: Path, tmp_path: Path) -> None:
    trained = neoxrun("generate", whole, *PROMPT).check_success().out
    converted = tmp_path / "converted"
    neoxrun("convert", whole, converted, "--to", "huggingface", "--dtype", "fp32").check_success()
    assert neoxrun("generate", converted, *PROMPT).check_success().out == trained
    assert not (whole / ".writing").exists()
    assert "global_step4" in neoxrun("inspect", whole).check_success().out
    differing = neoxrun("diff", whole, whole / "global_step2", "-q")
    assert differing.code == 6
    assert differing.out.splitlines()[-1] == "76 tensors: 76 different"


def test_runs_are_scored(whole: Path, adapter: Path, tmp_path: Path) -> None:
    """The base model, and what training has made of it."""
    models = (("demo",), (whole,), ("demo", "--adapter", adapter))
    scores = sorted(score(*words, text=tmp_path / "text.txt") for words in models)
    assert scores[0] + 0.01 < scores[1] < scores[2] - 0.01


def test_runs_are_evaluated(whole: Path, adapter: Path, tasks: Path, tmp_path: Path) -> None:
    """The newest checkpoint of a whole model, and of an adapter."""
    first = evaluate(whole, tasks=tasks, output=tmp_path / "whole")
    second = evaluate("demo", "--adapter", adapter, tasks=tasks, output=tmp_path / "adapter")
    assert len(first[0]) == len(second[0]) == 3
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_evaluation_data_in_the_training_data_are_noted(trained_adapter: tuple[Path, Result]) -> None:
    _, done = trained_adapter
    assert done.err.count("warning: evaluation documents that are also in the training data: 1 of 1") == 1


def test_an_adapter_is_named_by_its_run(adapter: Path) -> None:
    step = adapter / "global_step4"
    texts = [neoxrun("generate", "demo", "--adapter", path, *PROMPT).check_success().out for path in (adapter, step)]
    assert texts[0] == texts[1]
    refused = neoxrun("generate", adapter, *PROMPT)
    refused.check_error(3, "holds an adapter (LoRA), not a model", f"--adapter {step}")


def test_a_run_is_watched(whole: Path) -> None:
    """What the packages write is read back in the unit tests."""
    if find_spec("tensorboard"):
        assert next((whole / "tensorboard").glob(EVENTS)).stat().st_size > 100
    if find_spec("wandb"):
        assert next((whole / "wandb").glob("offline-run-*/run-*.wandb")).stat().st_size > 100
    if find_spec("matplotlib"):
        neoxrun("plot", whole).check_success()
        assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_continues_on_another_split(whole: Path, tmp_path: Path) -> None:
    """On two replicas with ZeRO 2, from the middle: the same rows, and the same losses within rounding."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "global_step4")
    words = (*TRAIN, *BATCH, *STILL, "--output", run, "--lr", 1e-3)
    neoxrun(*words, "--resume", "--replicas", 2, "--zero-stage", 2).check_success()
    assert (run / "latest").read_text() == "global_step4"
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4)
    assert losses(run) != losses(whole), "rounding tells that the steps were made again"


def test_a_run_does_not_continue_with_other_settings(whole: Path) -> None:
    words = (*TRAIN, *BATCH, *STILL, "--output", whole)
    changed = neoxrun(*words, "--resume", "--lr", 1e-4)
    changed.check_error(4, "--lr was 0.001, is 0.0001", "--resume-anyway")
    for resume in ("--resume", "--resume-anyway"):
        settings = (whole / "settings.json").read_bytes()
        divided = neoxrun(*words, resume, "--lr", 1e-3, "--tp", 2)
        divided.check_error(4, "trained with --tp 1", "Give --tp 1.", where=str(whole / "global_step4"))
        assert (whole / "settings.json").read_bytes() == settings
