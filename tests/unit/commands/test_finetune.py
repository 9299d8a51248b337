"""``neoxrun finetune`` up to its ranks, through ``--dry-run``: what it finds, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from neoxrun.cli import main
from neoxrun.launch import launcher
from neoxrun.launch.job import Job
from neoxrun.training.run_settings import describe_run
from neoxrun.training.ways_on import state_file
from support.paths import DEMO, FIXTURES, shared_folder
from support.training_data import write_packed

TRAIN = shared_folder() / "fixtures-train"
TEXT = "import os\nfor name in os.listdir('.'):\n    print(name)\n"


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 40 documents in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"# {n}\n{TEXT * 9}"}) + "\n" for n in range(40)))
    return path


def finetune(*words: object) -> int:
    return main(["finetune", "demo", "--device", "cpu", "--seq-length", "64", *map(str, words)])


def dry(*words: object) -> int:
    return finetune("--dry-run", *words)


def test_the_first_look(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--data", texts, "--eval-data", texts, "--epochs", 3, "--batch-size", 16) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "training the whole model, 3,456,000 parameters in fp32" in printed.err
    assert "40 documents of" in printed.err
    assert "evaluation documents that are also in the training data: 40 of 40" in printed.err
    assert "learning rate 1e-05, cosine to 1e-06, " in printed.err
    assert printed.err.partition(" steps, ")[2].startswith("2.9"), "epochs: those of whole steps"


def test_documents_that_are_cut_are_counted(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--data", texts, "--no-pack") == 0
    assert "warning: 40 documents cut to 65 tokens" in capsys.readouterr().err


def test_a_tokenizer_of_another_model(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the size of a model with its vocabulary is said."""
    assert dry("--data", texts, "--tokenizer", FIXTURES / "tp1" / "tokenizer.json") == 3
    printed = capsys.readouterr().err
    assert "the tokenizer has 500 entries, but the checkpoint's vocabulary has 2048" in printed
    assert "training the whole model" not in printed


def test_options_that_are_read_are_not_said_to_be_ignored(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = "--set hidden_dropout=0.5 --set train_iters=7 --set dataset_impl=gpt2 --set use_wandb=false"
    assert dry("-v", "--data", texts, *read.split(), "--set", "log_interval=3") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "ignored, since" in line]
    assert line.endswith("ignored, since they do not change what the model computes: log_interval")


def test_what_the_ranks_get(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "tensorboard" or find(name, *more))
    words = "--lora --lora-rank 4 --split 9,1,0 --no-pack --steps 30 --keep 3 --tensorboard --sample-prompt import"
    finetune("--data", texts, "--output", "run", *words.split())
    (job,) = jobs
    options = job.options
    assert pickle.loads(pickle.dumps(options)) == options
    assert (job.command, job.plan.tp, job.plan.pp, job.plan.replicas) == ("finetune", 1, 1, 1)
    assert (options.training.train_iters, options.training.keep) == (30, 3)
    assert (options.training.eval_interval, options.training.save_interval) == (3, 3)
    assert options.training.eval_iters == 1, "4 documents in rows of their own, in batches of 8"
    assert (options.lora.rank, options.data.packed, options.data.split) == (4, False, (0.9, 0.1, 0.0))
    assert options.folder == Path("run").absolute()
    assert (options.tensorboard, options.sample_prompts, options.wandb) == (True, ("import",), None)
    assert (options.resume, options.random_weights) == (False, False)


def test_where_the_run_is(texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    for words in ((), ("--set", f"save={tmp_path}/saved"), ("--set", "save=x", "-o", "given")):
        finetune("--data", texts, *words)
    names = [job.options.folder.relative_to(tmp_path) for job in jobs]
    assert names == [Path("finetune-demo"), Path("saved"), Path("given")]


def test_weights_and_biases_of_the_configuration(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "wandb" or find(name, *more))
    project = ("--set", "wandb_project=mine")
    for words in (project, ("--set", "use_wandb=true"), ("--set", "use_wandb=true", *project), ("--wandb", "given")):
        finetune("--data", texts, *words)
    assert [job.options.wandb for job in jobs] == [None, "neox", "mine", "given"]
    assert finetune("--data", texts, "--wandb", " ") == 2
    assert "--wandb needs the name of a project" in capsys.readouterr().err


def test_an_existing_run(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("run")
    run.mkdir()
    (run / "notes.txt").touch()
    assert dry("--data", texts, "-o", run) == 4
    assert "run holds something else than a run: notes.txt" in capsys.readouterr().err
    (run / "notes.txt").unlink()
    assert dry("--data", texts, "-o", run) == 0, "the cache of tokens is not a run"
    (run / "settings.json").write_text("{}")
    assert dry("--data", texts, "-o", run) == 0, "nor are settings without a checkpoint"
    (run / "global_step2").mkdir()
    (run / "global_step2" / "neoxrun.checkpoint.json").write_text('{"step": 2}')
    assert dry("--data", texts, "-o", run) == 4
    assert "Continue it with --resume" in capsys.readouterr().err
    assert dry("--data", texts, "-o", run, "--resume") == 4
    assert "settings.json is not what neoxrun writes there" in capsys.readouterr().err
    assert dry("--data", texts, "-o", run, "--steps", 2, "--resume-anyway") == 0
    assert dry("--data", texts, "-o", run, "--steps", 1, "--resume-anyway") == 2
    assert "the run has 2 steps already, more than the 1 asked for" in capsys.readouterr().err
    assert (run / "settings.json").read_text() == "{}"


def put_checkpoint(run: Path, step: int, **facts: object) -> Path:
    """A whole checkpoint of the demo model, with nothing in its state."""
    checkpoint = run / f"global_step{step}"
    shutil.copytree(next(DEMO.glob("global_step*")), checkpoint)
    state = state_file(checkpoint, 0)
    state.parent.mkdir()
    save_file({}, state)
    (checkpoint / "neoxrun.checkpoint.json").write_text(json.dumps({"step": step, **facts}))
    return checkpoint


def test_a_run_with_other_data_is_refused(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever rows the change touches, and even where all documents keep their lengths."""
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    valid = write_packed(texts.parent / "valid", [[1, 2, 3], [4, 5, 6]])
    words = ("--data", texts, "--eval-data", valid, "-o", "run")
    finetune(*words)
    (job,) = jobs
    run = Path("run")
    (run / "settings.json").write_text(json.dumps(describe_run(job.settings, job.plan, job.options)))
    put_checkpoint(run, 2, tp=1)
    capsys.readouterr()
    assert dry(*words, "--resume") == 0
    write_packed(valid, [[1, 2, 3], [4, 5, 7]])
    assert dry(*words, "--resume") == 4
    assert f"other settings or data: {valid} has changed\n" in capsys.readouterr().err
    text = texts.read_text()
    texts.write_text("".join(reversed(text.splitlines(keepends=True))))
    assert dry(*words, "--resume") == 4
    assert f"other settings or data: {texts} has changed; {valid} has changed\n" in capsys.readouterr().err
    texts.write_text(text + text)
    assert dry(*words, "--resume") == 4
    assert f"other settings or data: {texts} had 40 documents of " in capsys.readouterr().err
    texts.write_text(text)
    write_packed(valid, [[1, 2, 3], [4, 5, 6]])
    assert dry(*words, "--resume", "--lr", "3e-5", "--epochs", 2) == 4
    assert "other settings or data: --lr was 1e-05, is 3e-05; --epochs was 1, is 2\n" in capsys.readouterr().err
    assert dry(*words, "--resume-anyway", "--lr", "3e-5") == 0
    assert "warning: the run continues with other settings or data: --lr was 1e-05, is 3e-05\n" in (
        capsys.readouterr().err
    )


def test_a_first_look_leaves_no_empty_folders(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither where it is refused, at a row or later, nor where there was nothing to encode."""
    bad, blank = texts.parent / "bad.jsonl", texts.parent / "blank.txt"
    bad.write_text('{"texts": "x"}\n')
    blank.write_text("\n\n")
    here = sorted(texts.parent.iterdir())
    for path, code in ((bad, 4), (blank, 4), (write_packed(texts.parent / "packed", [[1, 2, 3] * 100]), 0)):
        assert dry("--data", path, "-o", "new/run") == code
        assert not Path("new").exists()
    assert "there are no documents in" in capsys.readouterr().err
    Path("new").mkdir()
    assert dry("--data", bad, "-o", "new/run", "--resume") == 4
    assert list(Path("new").iterdir()) == [], "what was there stays"
    Path("new").rmdir()
    assert [path for path in sorted(texts.parent.iterdir()) if path.stem != "packed"] == here
    assert dry("--data", texts, "-o", "new/run") == 0
    encoded = sorted(path.name for path in Path("new/run/cache").iterdir())
    assert dry("--data", bad, "-o", "new/run") == 4
    assert sorted(path.name for path in Path("new/run/cache").iterdir()) == encoded, "tokens are kept for the run"


def test_a_complete_run_is_not_started(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    run = Path("run")
    put_checkpoint(run, 3)
    (run / "settings.json").write_text("{}")
    assert finetune("--data", texts, "-o", run, "--steps", 3, "--resume-anyway") == 0
    assert "the run is complete: " in capsys.readouterr().err
    assert not jobs
    finetune("--data", texts, "-o", run, "--steps", 4, "--resume-anyway")
    assert len(jobs) == 1
    due = '{"step": 3, "due": ["evaluation", "samples"]}'  # as after Ctrl-C in the last evaluation
    (run / "global_step3" / "neoxrun.checkpoint.json").write_text(due)
    finetune("--data", texts, "-o", run, "--steps", 3, "--resume-anyway")
    assert len(jobs) == 2


def test_a_checkpoint_that_is_not_whole_is_named_before_anything_is_loaded(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do: nobody can download a run's own checkpoint again."""
    jobs: list[Job] = []
    monkeypatch.setattr(launcher, "run_job", jobs.append)
    run, words = Path("run").absolute(), ("--data", texts, "-o", "run", "--steps", 9)
    finetune(*words)
    (job,) = jobs
    old, new = put_checkpoint(run, 2, tp=1), put_checkpoint(run, 3, tp=1)
    (run / "settings.json").write_text(json.dumps(describe_run(job.settings, job.plan, job.options)))
    assert dry(*words, "--resume") == 0
    on = f"hint: Move {new} elsewhere: --resume then continues from global_step2."
    layer = next(new.glob("layer_03*"))
    for path, what in ((layer, "was cut short"), (state_file(new, 0), "ends within its header")):
        content = path.read_bytes()
        path.write_bytes(content[:9])
        assert dry(*words, "--resume") == 3
        printed = capsys.readouterr().err
        assert what in printed
        assert on in printed
        path.write_bytes(content)
    layer.unlink()
    assert dry(*words, "--resume") == 3
    assert on in capsys.readouterr().err
    shutil.rmtree(new / "training")
    assert dry(*words, "--resume") == 3
    printed = capsys.readouterr().err
    assert "global_step3 has no folder training, so that the state of the optimizer is missing" in printed
    assert on in printed
    shutil.rmtree(old / "training")
    assert dry(*words, "--resume") == 3
    assert f"hint: Train from its weights, in a new run: `neoxrun finetune {run} -o NEW`." in capsys.readouterr().err
    (new / "neoxrun.checkpoint.json").write_text("{")
    assert dry(*words, "--resume") == 4
    assert f"hint: Move {new} elsewhere: the run then continues from another" in capsys.readouterr().err
    assert len(jobs) == 1


@pytest.mark.parametrize("package", ["deepspeed", "megatron", "tensorboard"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == package else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert dry("--data", texts, "--tensorboard") == 2
    error = capsys.readouterr().err
    extra = "tensorboard" if package == "tensorboard" else "finetune"
    assert f"hint: Install it: pip install 'neoxrun[{extra}]'" in error
    assert package in error


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no data": ([], 2, "no data to train on is named"),
    "missing data": (["--data", "missing.jsonl"], 4, "there is no file"),
    "a folder": (["--data", "."], 4, " is a folder"),
    "an unwritable folder": (["--data", "texts.jsonl", "-o", "/proc/x"], 4, "another folder of the run with --output"),
    "an empty file": (["--data", "empty.jsonl"], 4, "empty.jsonl"),
    "a wrong row": (["--data", "wrong.jsonl"], 4, "wrong.jsonl:2"),
    "another optimizer": (
        ["--data", "texts.jsonl", "--set", "optimizer={type: SM3}"],
        2,
        "optimizer.type: SM3 is not supported",
    ),
    "stages": (["--data", "texts.jsonl", "--pp", "2"], 2, "finetune does not divide a model into pipeline stages"),
    "too long rows": (["--data", "texts.jsonl", "--set", "seq_length=4096"], 2, "seq_length"),
    "too many rows": (
        ["--data", "texts.jsonl", "--batch-size", "1000000000"],
        2,
        "train_batch_size must be a whole number from 1 to 1000000",
    ),
    "two kinds of data to evaluate on": (
        ["--data", "texts.jsonl", "--split", "9,1,0", "--eval-data", "texts.jsonl"],
        2,
        "--split and separate data to evaluate on cannot be combined",
    ),
    "a mistyped option": (["--data", "texts.jsonl", "--set", "train_iterz=3"], 2, "Did you mean train_iters?"),
    "a wrong split": (["--data", "texts.jsonl", "--split", "x"], 2, "split must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_loaded(case: str, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.jsonl").touch()
    Path("wrong.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    words, code, message = REFUSED[case]
    parts = [] if case == "too long rows" else ["--seq-length", "64"]
    assert main(["finetune", "demo", "--device", "cpu", "--dry-run", *parts, *words]) == code
    assert message in capsys.readouterr().err
    assert not Path("finetune-demo/settings.json").exists()


@pytest.mark.skipif(not TRAIN.is_dir(), reason=f"{TRAIN} is not here")
@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU computes in fp16")
def test_fp16_is_refused_before_anything_is_written(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--data", texts, "--dtype", "fp16", "-o", "run") == 2
    error = capsys.readouterr().err
    assert "fp16 cannot be trained on this CPU" in error
    assert "training the whole model" not in error
    assert not Path("run").exists()


def test_an_adapter_is_not_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--adapter", str(TRAIN / "lora" / "adapter_after"), "--device", "cpu", "--dry-run"]
    assert main(["finetune", str(TRAIN / "tp1" / "config.yml"), *words]) == 2
    assert "finetune does not continue the training of an adapter" in capsys.readouterr().err


def test_warnings(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("finetune=false", "lr_decay_iters=100000", "warmup=0.01")
    assert dry("--data", texts, *(word for key in keys for word in ("--set", key))) == 0
    error = capsys.readouterr().err
    assert "finetune: false (--set finetune=false) would continue a run of GPT-NeoX" in error
    assert "which the checkpoint does not have: the weights are trained from step 1" in error
    assert "the learning rate never reaches its peak: it rises for 1000 steps" in error


def test_warnings_of_little_data(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("short.txt").write_text("import os\n")
    assert dry("--data", "short.txt", "--split", "90,10,0") == 0
    error = capsys.readouterr().err
    assert "warning: split leaves none of 1 document to evaluate on" in error
    assert "a step has 8 rows, and the data make 1: each step sees them 8 times" in error
    assert dry("--data", texts, "--split", "90,10,0") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_pipeline_is_planned_again(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--data", texts, "--set", "pipe_parallel_size=2") == 0
    assert "pipe_parallel_size: 2 -> 1, as finetune has no pipeline stages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (("--epochs", 10**9), ""),
        (("--steps", 2 * 10**9), "16,000,000,000 "),
        (("--no-pack", "--steps", 2 * 10**9), "16,000,000,000 "),
    ],
    ids=["epochs", "steps", "a document a row"],
)
def test_more_rows_than_their_order_has_room_for(
    words: tuple[object, ...], rows: str, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry("--data", texts, "-o", "run", *words) == 2
    error = capsys.readouterr().err
    assert f"{rows}rows needs " in error
    assert "of memory on each rank, and this host has " in error
    assert "Lower --epochs or --steps" in error
