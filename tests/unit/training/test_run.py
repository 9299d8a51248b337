"""Runs that stop and continue: the same weights, bit for bit on the same split, and within rounding on another."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import open_adapter
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Merge, Precision
from neoxrun.config.training import LoraConfig, ScheduleConfig, ZeroConfig
from neoxrun.conversion.safetensors_file import SafetensorsFile
from neoxrun.errors import CheckpointError, DataError, RankError, Stopped
from neoxrun.generation.interrupt import StopFlag
from neoxrun.training.deepspeed_engine import DeepSpeedEngine, MicroBatch, Update
from neoxrun.training.folder import saved_checkpoints
from neoxrun.training.ways_on import state_file
from support import training_runs
from support.checkpoints import raw_shards
from support.paths import ROOT
from support.ranks import Case, run_on_split
from support.training_runs import (
    STEPS,
    TRAINING,
    RunCase,
    assert_same_run,
    final_state,
    metrics,
    prepare,
    run_here,
    run_on_ranks,
)

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, texts, and a run of one rank in ``run``."""
    folder = tmp_path_factory.mktemp("runs")
    prepare(folder)
    run_here(RunCase(folder, more={"sample_prompts": ("to be", "")}))
    return folder


def test_a_run_leaves_a_model_with_everything_about_it(place: Path) -> None:
    case = RunCase(place)
    found = metrics(case)
    assert [line["step"] for line in found if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if "eval_loss" in line] == [0, 2, 4, 6]
    losses = [line["eval_loss"] for line in found if "eval_loss" in line]
    assert losses[-1] < losses[0]
    samples = [json.loads(line) for line in (case.folder / "samples.jsonl").read_text().splitlines()]
    assert {(line["step"], line["prompt"]) for line in samples} == {
        (step, prompt) for step in (0, 2, 4, 6) for prompt in ("to be", "")
    }
    assert samples[-2]["text"]
    for folder in (case.folder, case.folder / "global_step4", case.folder / "config.yml"):
        settings = load_settings([str(folder)])
        assert settings.model == replace(case.settings.model, make_vocab_size_divisible_by=128)
        assert settings.tokenizer.vocab_file is not None
        assert settings.tokenizer.vocab_file.samefile(case.folder / "tokenizer.json")
    checkpoint = find_checkpoint(case.folder, case.settings.model)
    assert checkpoint.tag == f"global_step{STEPS}"


def test_a_run_continues_bit_for_bit(place: Path) -> None:
    case = RunCase(place, more={"sample_prompts": ("to be", "")})
    resumed = case.resumed("resumed", until=2)
    run_here(resumed)
    assert_same_run(case, resumed)


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunCase]:
    """Runs of two tensor-parallel ranks: one and its continuation, and two of which only the end is saved."""
    place = tmp_path_factory.mktemp("divided")
    for name in ("parallel", "sequential"):
        prepare(place / name, gpt_j_residual=name == "parallel")
    whole = RunCase(
        place / "parallel", training=replace(TRAINING, zero=ZeroConfig(3), hidden_dropout=0.1), tp=2, dtype="bf16"
    )
    cases = {
        "whole": whole,
        "resumed": whole.resumed("resumed", until=4),
        "parallel": RunCase(place / "parallel", "end", replace(TRAINING, save_interval=0), tp=2),
        "sequential": RunCase(
            place / "sequential", "end", replace(TRAINING, save_interval=0, zero=ZeroConfig(1)), tp=2
        ),
    }
    run_on_ranks(list(cases.values()), place)
    return cases


@pytest.mark.slow
def test_a_divided_run_continues_bit_for_bit(divided: dict[str, RunCase]) -> None:
    assert_same_run(divided["whole"], divided["resumed"])


@pytest.mark.slow
def test_the_layer_files_of_two_ranks_are_of_one_model(divided: dict[str, RunCase], tmp_path: Path) -> None:
    """GPT-NeoX's ranks add their row-parallel biases up with the parallel residual, and else each adds the same."""
    names = ("parallel", "sequential")
    for name in names:
        first, second = raw_shards(divided[name].folder)
        biases = [key for key in first if key.name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias")]
        assert len(biases) == 4
        for key in biases:
            assert first[key].any()
            assert torch.equal(second[key], torch.zeros_like(first[key]) if name == "parallel" else first[key]), key
    cases = {
        name: Case(divided[name].settings.model, divided[name].folder, [[5, 7, 11, 13, 17], [2, 3, 4, 5]])
        for name in names
    }
    one, two = (run_on_split(cases, tp, 1, tmp_path) for tp in (1, 2))
    for name in names:
        for logits, others in zip(one[name].whole, two[name].whole, strict=True):
            torch.testing.assert_close(logits, others, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_continues_with_other_replicas_and_another_stage(place: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    case = RunCase(tmp_path, training=replace(TRAINING, zero=ZeroConfig(2)), replicas=2)
    exact = replace(
        case, name="exact", training=replace(TRAINING, zero=ZeroConfig(1), fp32_gradients=True), dtype="bf16"
    )
    run_on_ranks([case, exact], tmp_path)
    one = case.resumed("one", until=4, training=replace(TRAINING, micro_batch_size=4), replicas=1)
    run_here(one)
    for other in (one, RunCase(place)):
        pairs = zip(metrics(case), metrics(other), strict=True)
        assert all(first == pytest.approx(second, abs=1e-4) for first, second in pairs)
    one = exact.resumed("exact one", until=4, training=replace(exact.training, zero=ZeroConfig(2)), replicas=1)
    run_here(one)
    pairs = zip(metrics(exact), metrics(one), strict=True)
    assert all(first == pytest.approx(second, abs=0.02) for first, second in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_that_are_summed_in_fp32(stage: int, place: Path) -> None:
    """A sum in bf16 has other gradients, and both are near those of fp32."""
    training = replace(TRAINING, zero=ZeroConfig(stage))
    plain = RunCase(place, f"bf16 {stage}", training=training, dtype="bf16")
    exact = replace(plain, name=f"exact {stage}", training=replace(training, fp32_gradients=True))
    resumed = exact.resumed(f"exact {stage}, resumed", until=2)
    with redirect_stdout(io.StringIO()) as printed:
        for case in (plain, exact, resumed):
            run_here(case)
    assert not printed.getvalue()
    assert_same_run(exact, resumed)
    norms = [[line["grad_norm"] for line in metrics(case) if "loss" in line] for case in (plain, exact, RunCase(place))]
    assert norms[0] != norms[1]
    assert norms[1] == pytest.approx(norms[2], rel=0.05)


def test_evaluations_see_the_same_rows_unless_they_are_a_stream(place: Path) -> None:
    """With a rate at which nothing is learned, equal rows have equal losses.

    The evaluation before the first step, which GPT-NeoX does not make, has the rows of the first after it.
    """
    still = replace(TRAINING, schedule=replace(TRAINING.schedule, lr=1e-20, min_lr=1e-20), save_interval=0)
    cases = [RunCase(place, f"still {stream}", training=still, eval_stream=stream) for stream in (False, True)]
    for case, of_each in zip(cases, (1, 3), strict=True):
        run_here(case)
        losses = [line["eval_loss"] for line in metrics(case) if "eval_loss" in line]
        assert (len(losses), len(set(losses))) == (4, of_each)
        assert losses[0] == losses[1]


def test_steps_and_evaluations_without_a_token_that_counts_are_named(tmp_path: Path) -> None:
    """Prompts that fill several rows, with a completion of one word: most steps of one row learn nothing."""
    prepare(tmp_path)
    for name, completion in (("train", " question"), ("valid", "")):
        rows = [{"prompt": "to be or not " * 12, "completion": completion}] * 20
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = replace(TRAINING, train_iters=12, train_batch_size=1, eval_interval=4, gradient_clipping=1.0)
    case = RunCase(tmp_path, training=training, eval_stream=True)
    run_here(case)
    losses = [line["loss"] for line in metrics(case) if "loss" in line]
    assert len(losses) == 12
    unlearned = {number for number, loss in enumerate(losses, 1) if loss is None}
    assert 0 < len(unlearned) < 12
    assert min(loss for loss in losses if loss is not None) > 0
    said = [json.loads(line)["message"] for line in (case.folder / "log.jsonl").read_text().splitlines()]
    for number in range(1, 13):
        text = f"nothing is learned in step {number}: none of the tokens of its rows counts"
        assert (text in said) == (number in unlearned)
    evaluated = [line["step"] for line in metrics(case) if "eval_loss" in line]
    skipped = [text for text in said if text.startswith("no evaluation after ")]
    assert len(evaluated) + len(skipped) == 4
    assert skipped
    for tensor in torch.load(case.folder / "global_step12" / "layer_02-model_00-model_states.pt").values():
        assert tensor.isfinite().all()


def test_an_adapter_is_saved_and_continues(place: Path) -> None:
    case = RunCase(place, "lora", lora=LoraConfig(rank=2), training=replace(TRAINING, zero=ZeroConfig(1)))
    run_here(case)
    resumed = case.resumed("lora resumed", until=4)
    run_here(resumed)
    assert_same_run(case, resumed)
    adapter = open_adapter(case.folder / "global_step6", case.settings.model)
    assert len(adapter.low_rank) == 8
    assert all(part.b.abs().max() > 0 for part in adapter.low_rank.values())
    assert not list(case.folder.glob("global_step6/layer_*"))
    guide = (case.folder / "README.md").read_text()
    assert f"--adapter {case.folder}/global_stepN" in guide
    assert " NEW_FOLDER --to huggingface --adapter " in guide


def test_ctrl_c_writes_a_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RunCase(place, "stopped", training=replace(TRAINING, save_interval=0))
    asked = iter([*[False] * 5, True])  # two evaluations and three steps
    with monkeypatch.context() as patched:
        patched.setattr(StopFlag, "raised", property(lambda flag: next(asked), lambda flag, value: None), raising=False)
        with pytest.raises(Stopped, match="interrupted after 3 steps of 6") as stopped:
            run_here(case)
    assert stopped.value.exit_code == 130
    assert "global_step3 is whole" in str(stopped.value.hint)
    run_here(replace(case, more={"resume": True}))
    assert_same_run(RunCase(place), case)


def test_data_that_have_changed_are_refused(place: Path) -> None:
    resumed = RunCase(place).resumed("changed", until=4)
    text = (place / "train.jsonl").read_text()
    (place / "train.jsonl").write_text(text.replace("question", "answer"))
    try:
        with pytest.raises(DataError, match="its data have changed") as error:
            run_here(resumed)
        assert error.value.code == "different_run"
        run_here(replace(resumed, more={"resume": True, "resume_anyway": True}))
    finally:
        (place / "train.jsonl").write_text(text)


def test_the_error_of_a_damaged_checkpoint_names_the_one_before_it(place: Path) -> None:
    resumed = RunCase(place).resumed("damaged", until=4)
    resumed.begin()
    newest = resumed.folder / "global_step4"
    for path in (state_file(newest, 0), next(newest.glob("layer_02*"))):
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        with pytest.raises(CheckpointError) as error:
            run_here(resumed)
        assert error.value.hint == f"Move {newest} elsewhere: --resume then continues from global_step2."
        path.write_bytes(content)


def test_another_tensor_parallel_size_is_refused(place: Path) -> None:
    resumed = RunCase(place).resumed("tp", until=4)
    resumed.begin()
    facts = resumed.folder / "global_step4" / "neoxrun.checkpoint.json"
    facts.write_text(facts.read_text().replace('"tp": 1', '"tp": 2'))
    with pytest.raises(DataError, match="trained with --tp 2"):
        run_here(resumed)


def test_a_full_disk_ends_a_run_with_its_last_checkpoint_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = SafetensorsFile.close
    case = RunCase(place, "full")

    def full(file: SafetensorsFile) -> None:
        if (case.folder / "global_step2").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(file)

    with monkeypatch.context() as patched:
        patched.setattr(SafetensorsFile, "close", full)
        with pytest.raises(DataError, match="No space left") as error:
            run_here(case)
    assert error.value.code == "disk_full"
    assert "global_step2 is whole: --resume" in str(error.value.hint)
    assert sorted(path.name for path in case.folder.glob("global_step*")) == ["global_step2"]
    run_here(replace(case, more={"resume": True}))
    assert_same_run(RunCase(place), case)


def test_a_loss_that_is_no_number_ends_a_run(place: Path) -> None:
    wild = replace(TRAINING, schedule=ScheduleConfig(1e30, 1e30, "constant", 0, STEPS), gradient_clipping=0.0)
    case = RunCase(place, "wild", training=replace(wild, save_interval=1))
    with pytest.raises(RankError, match=r"of step \d (is|are) not") as error:
        run_here(case)
    assert error.value.code == "diverged"
    assert "on rank 0" in error.value.message
    assert "is kept: --resume" in str(error.value.hint)


def test_a_step_that_needs_too_much_memory_says_what_makes_it_smaller(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_pass(*_: object) -> Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(DeepSpeedEngine, "_pass", run_pass)
    with pytest.raises(RankError, match=r"out of memory on rank 0, which asked for .* GB more") as error:
        run_here(RunCase(place, "large"))
    assert error.value.code == "out_of_memory"
    assert "Lower --micro-batch-size" in str(error.value.hint)


def broken_gradients(patched: pytest.MonkeyPatch, *passes: int) -> None:
    """Have the gradients of these passes, from 1, be no numbers; their losses are."""
    done, own = itertools.count(1), DeepSpeedEngine._pass

    def run_pass(engine: DeepSpeedEngine, batch: MicroBatch) -> Tensor:
        parameter = next(one for one in engine.model.parameters() if one.requires_grad)
        factor = float("nan") if next(done) in passes else 1.0
        hook = parameter.register_hook(lambda gradient: gradient * factor)
        try:
            return own(engine, batch)
        finally:
            hook.remove()

    patched.setattr(DeepSpeedEngine, "_pass", run_pass)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "fp32"), (1, "fp32"), (3, "fp32"), (2, "bf16")])
def test_gradients_that_are_no_numbers_end_a_run(
    stage: int, dtype: Precision, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed leaves such a step out at every stage but 0, without a word."""
    training = replace(TRAINING, zero=ZeroConfig(stage), save_interval=1, keep=1, eval_iters=0)
    case = RunCase(place, f"gradients {stage}", training=training, dtype=dtype)
    with monkeypatch.context() as patched:
        broken_gradients(patched, 10)
        with pytest.raises(RankError, match="the gradients of step 3 are not numbers") as error:
            run_here(case)
    assert error.value.code == "diverged"
    assert [path.name for path in case.folder.glob("global_step*")] == ["global_step2"]


def test_weights_that_are_no_numbers_do_not_replace_a_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step whose loss and gradients are numbers."""
    case = RunCase(place, "beyond", training=replace(TRAINING, save_interval=1, keep=1, eval_iters=0))
    own, done = DeepSpeedEngine.step, itertools.count(1)

    def step(engine: DeepSpeedEngine, batches: Iterable[MicroBatch], rate: float) -> Update:
        update = own(engine, batches, rate)
        if next(done) == 3:
            next(engine.model.parameters()).data[0] = float("inf")
        return update

    with monkeypatch.context() as patched:
        patched.setattr(DeepSpeedEngine, "step", step)
        with pytest.raises(RankError, match=r"after step 3 weights are not numbers") as error:
            run_here(case)
    assert error.value.code == "diverged"
    assert "global_step2 is kept: --resume" in str(error.value.hint)
    assert [path.name for path in case.folder.glob("global_step*")] == ["global_step2"]


def test_a_run_that_is_stopped_before_its_first_step_starts_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RunCase(place, "at once", more={"sample_prompts": ("to be", "")})
    with monkeypatch.context() as patched:
        patched.setattr(StopFlag, "raised", property(lambda flag: True, lambda flag, value: None), raising=False)
        with pytest.raises(Stopped, match="before the first step") as stopped:
            run_here(case)
    assert "the same command starts again" in str(stopped.value.hint)
    run_here(case)
    assert_same_run(RunCase(place), case)
    samples = [json.loads(line) for line in (case.folder / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [0, 0, 2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), LoraConfig(rank=2, targets=("dense",)), None], ids=str)
def test_other_parameters_are_not_continued(place: Path, lora: LoraConfig | None) -> None:
    """Not even by --resume-anyway."""
    case = RunCase(place, f"other {lora}", lora=LoraConfig(rank=2) if lora else None)
    run_here(replace(case, training=replace(TRAINING, eval_iters=0)))
    changed = replace(case, lora=lora or LoraConfig(), more={"resume": True, "resume_anyway": True})
    with pytest.raises(DataError, match="other parameters were trained") as error:
        run_here(changed)
    assert error.value.code == "different_run"


def test_a_loss_scale_is_passed_over_where_none_is_used(place: Path) -> None:
    """As by --resume-anyway with another --dtype."""
    resumed = RunCase(place).resumed("scaled", until=4)
    resumed.begin()
    facts = resumed.folder / "global_step4" / "neoxrun.checkpoint.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"scaler": {"cur_scale": 8.0}}))
    run_here(resumed)
    assert_same_run(RunCase(place), resumed)


@pytest.mark.parametrize("merge", ["fold", "average"])
def test_an_adapter_says_what_had_become_of_norms(place: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RunCase(place, f"merge {merge}", lora=LoraConfig(rank=2), training=replace(TRAINING, eval_iters=0))
    settings = replace(case.settings, merge=merge)
    with monkeypatch.context() as patched:
        patched.setattr(RunCase, "settings", settings)
        run_here(case)
    assert open_adapter(case.folder / "global_step6", settings.model).merge == merge


@pytest.mark.slow
def test_whatever_moment_it_is_killed_at_a_run_ends_with_the_same_weights(place: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    moments = random.Random(3)
    case = RunCase(tmp_path, training=replace(TRAINING, save_interval=1), more={"resume": True})
    (tmp_path / "case.pkl").write_bytes(pickle.dumps([case]))
    program = [sys.executable, training_runs.__file__, tmp_path / "case.pkl"]
    # The order of sums, and so the bits, depend on the number of threads.
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    kills = 0
    while True:
        process = subprocess.Popen(program, env=environment)
        deadline = time.monotonic() + 120
        steps = -1 if kills >= 2 else (kills + 1) * 2
        while process.poll() is None and time.monotonic() < deadline:
            if steps > 0 and (case.folder / f"global_step{steps - 1}").exists():
                time.sleep(moments.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills
    expected, found = final_state(RunCase(place)), final_state(case)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_generation_config_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    """The ends of texts in it may have been written by the run itself."""
    prepare(tmp_path)
    (tmp_path / "model" / "generation_config.json").write_text('{"max_length": 9, "eos_token_id": 0}')
    case = RunCase(tmp_path, training=replace(TRAINING, train_iters=2))
    run_here(case)
    found = case.folder / "generation_config.json"
    assert json.loads(found.read_text())["max_length"] == 9
    resumed = replace(case, training=TRAINING, more={"resume": True, "resume_anyway": True})
    for other in ('{"max_length": 7, "eos_token_id": 0}', "[]", "{"):
        found.write_text(other)
        with pytest.raises(DataError, match=r"generation_config\.json is another file than") as error:
            run_here(resumed)
        assert error.value.code == "existing_target"
        assert found.read_text() == other
    found.write_text('{"max_length": 9, "eos_token_id": 5}')
    run_here(resumed)
    assert saved_checkpoints(case.folder)[-1].step == STEPS
