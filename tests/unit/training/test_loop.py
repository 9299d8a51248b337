"""How a run continues or ends where its numbers are not what they should be."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from neoxrun.config.training import LossScaleConfig, TrainingConfig, ZeroConfig
from neoxrun.engine.pulse import Pulse
from neoxrun.errors import RankError, Stopped
from neoxrun.generation.interrupt import StopFlag
from neoxrun.parallel import mesh as meshes
from neoxrun.training.deepspeed_engine import DeepSpeedEngine, MicroBatch, Update
from neoxrun.training.folder import saved_checkpoints
from neoxrun.training.network import LanguageModel
from neoxrun.training.run import run_finetuning
from neoxrun.training.schedule import learning_rate
from support.ranks import CPU
from support.training_runs import STEPS, TRAINING, RunCase, assert_same_run, metrics, prepare, run_here

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and texts."""
    folder = tmp_path_factory.mktemp("loop")
    prepare(folder)
    return folder


def looks(patched: pytest.MonkeyPatch, stopping: int | None = None) -> list[int]:
    """The numbers of the times at which a run looks whether it was asked to end; at one of them it was."""
    seen: list[int] = []

    def raised(flag: StopFlag) -> bool:
        seen.append(len(seen))
        return seen[-1] == stopping

    patched.setattr(StopFlag, "raised", property(raised, lambda flag, value: None), raising=False)
    return seen


def test_whenever_it_is_asked_to_end_a_run_continues_as_if_it_was_not(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between steps, within an evaluation, and within samples; also in those after the last step."""
    training = replace(TRAINING, train_iters=4, eval_iters=8, save_interval=4)
    case = RunCase(place, "whole", training, more={"sample_prompts": ("to be",)})
    with monkeypatch.context() as patched:
        seen = looks(patched)
        run_here(case)
    assert len(seen) == 4 + 3 * (8 + 40)  # steps, batches of three evaluations, tokens of three samples
    due = set()
    for number in (*range(3, len(seen), 25), seen[-1]):
        stopped = replace(case, name=f"stopped {number}")
        with monkeypatch.context() as patched:
            looks(patched, number)
            with pytest.raises(Stopped) as ended:
                run_here(stopped)
        assert ended.value.exit_code == 130
        for saved in saved_checkpoints(stopped.folder):
            due.add((saved.step, *saved.facts["due"]))
        run_here(replace(stopped, more=case.more | {"resume": True}))
        assert_same_run(case, stopped)
        for name in ("samples.jsonl", "best", "latest"):
            assert (stopped.folder / name).read_text() == (case.folder / name).read_text()
        assert saved_checkpoints(stopped.folder)[-1].facts == saved_checkpoints(case.folder)[-1].facts
    assert {(2, "evaluation", "samples"), (2, "samples"), (4, "evaluation", "samples"), (4, "samples")} <= due


def test_every_pass_is_seen_by_a_watch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, evaluations and samples."""
    pulses: list[Pulse] = []
    inside: list[bool] = []

    @contextmanager
    def watch(pulse: Pulse) -> Iterator[None]:
        pulses.append(pulse)
        yield

    forward = LanguageModel.forward

    def see(model: LanguageModel, *values: Any) -> Tensor:
        inside.append(pulses[0].inside)
        return forward(model, *values)

    monkeypatch.setattr(LanguageModel, "forward", see)
    run_here(RunCase(place, "watched", more={"sample_prompts": ("to be",)}), watch)
    assert len(inside) > STEPS * 4 + 4 * 4
    assert all(inside)
    assert pulses[0].passes > len(inside)
    assert not pulses[0].inside


@pytest.fixture
def fp16_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch computes fp16 on every CPU; neoxrun and DeepSpeed refuse those that do so slowly."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    monkeypatch.setattr(CPU_Accelerator, "is_fp16_supported", lambda accelerator: True)
    monkeypatch.setattr("neoxrun.training.deepspeed_engine.check_fp16", lambda precision, kind: None)


def scaled(power: int, stage: int = 1, **scale: Any) -> TrainingConfig:
    """Training whose losses are multiplied by 2 to this power at first."""
    return replace(
        TRAINING, keep=None, zero=ZeroConfig(stage), loss_scale=LossScaleConfig(0.0, power, hysteresis=1, **scale)
    )


@pytest.mark.usefixtures("fp16_on_the_cpu")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_that_fp16_leaves_out_does_not_move_the_rate_on(place: Path, stage: int) -> None:
    """The first checkpoint is of a run that has no step applied yet."""
    case = RunCase(place, f"skipping {stage}", scaled(20, stage), dtype="fp16")
    run_here(case)
    steps = [line for line in metrics(case) if "loss" in line]
    skipped = [line["skipped"] for line in steps]
    assert skipped[:2] == [True, True]
    assert skipped[4:] == [False, False]
    assert [line["loss_scale"] for line in steps] == [2.0 ** (20 - sum(skipped[:index])) for index in range(STEPS)]
    done = [skipped[:index].count(False) for index in range(STEPS + 1)]
    assert [line["lr"] for line in steps] == [learning_rate(TRAINING.schedule, applied + 1) for applied in done[:-1]]
    assert [saved.facts["applied"] for saved in saved_checkpoints(case.folder)] == [0, done[4], done[6]]
    for until in (2, 4):
        resumed = case.resumed(f"resumed {stage} {until}", until)
        run_here(resumed)
        assert_same_run(case, resumed)


@pytest.mark.usefixtures("fp16_on_the_cpu")
@pytest.mark.parametrize("stage", [1, 3])
def test_an_overflow_at_the_least_loss_scale_ends_a_run(place: Path, stage: int) -> None:
    case = RunCase(place, f"least {stage}", scaled(31, stage, least=2.0**29), dtype="fp16")
    with pytest.raises(RankError, match=r"the gradients of step 3 are beyond fp16 .* scale, 5.36871e\+08") as error:
        run_here(case)
    assert error.value.code == "diverged"
    assert "of the training data, on rank 0" in error.value.message
    assert str(error.value.hint).startswith("Lower --lr, or use --dtype bf16 or fp32. ")
    assert "global_step2 is kept: --resume" in str(error.value.hint)


@pytest.mark.usefixtures("fp16_on_the_cpu")
@pytest.mark.parametrize(("steps", "least"), [(13, 10), (3, 3)])
def test_a_fixed_loss_scale_at_which_no_step_is_applied_ends_a_run(place: Path, steps: int, least: int) -> None:
    """After ten steps, or all of a shorter run."""
    fixed = LossScaleConfig(2.0**30, 16)
    training = replace(TRAINING, train_iters=steps, zero=ZeroConfig(1), loss_scale=fixed, eval_iters=0)
    case = RunCase(place, f"fixed {steps}", training, dtype="fp16")
    with pytest.raises(
        RankError, match=rf"{least} steps in a row, up to step {least}, .* fixed .* 1.07374e\+09"
    ) as error:
        run_here(case)
    assert error.value.code == "diverged"
    assert "Give fp16 a lower loss_scale" in str(error.value.hint)
    assert [line["skipped"] for line in metrics(case)] == [True] * (least - 1)
    said = [json.loads(line)["message"] for line in (case.folder / "log.jsonl").read_text().splitlines()]
    assert "step 2 is left out: its gradients overflow at the fixed loss scale 1.07374e+09" in said


@pytest.mark.usefixtures("fp16_on_the_cpu")
def test_a_fixed_loss_scale_may_leave_out_some_steps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but every tenth: none is too many in a row."""
    step = DeepSpeedEngine.step
    numbers = itertools.count(1)

    def leave_out(engine: DeepSpeedEngine, batches: Iterable[MicroBatch], rate: float) -> Update:
        return step(engine, batches, rate)._replace(applied=next(numbers) % 10 == 0)

    monkeypatch.setattr(DeepSpeedEngine, "step", leave_out)
    training = replace(
        TRAINING,
        train_iters=19,
        zero=ZeroConfig(1),
        loss_scale=LossScaleConfig(64.0, 16),
        eval_iters=0,
        save_interval=0,
    )
    case = RunCase(place, "some", training, dtype="fp16")
    run_here(case)
    assert [line["step"] for line in metrics(case) if not line["skipped"]] == [10]


@pytest.mark.parametrize("number", [0, 2])
def test_an_evaluation_whose_loss_is_no_number_ends_a_run(
    place: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint follows, which the next steps would continue from."""
    case = RunCase(place, f"evaluation {number}")
    own, done = DeepSpeedEngine.evaluate, itertools.count()

    def evaluate(engine: DeepSpeedEngine, batches: Iterable[MicroBatch]) -> Tensor:
        return own(engine, batches) * (float("nan") if next(done) == number else 1)

    monkeypatch.setattr(DeepSpeedEngine, "evaluate", evaluate)
    with pytest.raises(RankError, match=f"the loss of the evaluation after {2 * number} steps is nan") as error:
        run_here(case)
    assert error.value.code == "diverged"
    saved = [found.step for found in saved_checkpoints(case.folder)]
    assert saved == list(range(2, 2 * number, 2))
    kept = "global_step2 is kept: --resume" if saved else "No checkpoint was written before."
    assert kept in str(error.value.hint)


def test_a_spike_right_after_a_run_is_continued_is_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the losses before the checkpoint in mind, as where it is not continued."""
    training = replace(TRAINING, train_iters=26, eval_iters=0, save_interval=24)
    case = RunCase(place, "spike", training)
    own, steps = DeepSpeedEngine.step, itertools.count(1)

    def step(engine: DeepSpeedEngine, batches: Iterable[MicroBatch], rate: float) -> Update:
        update = own(engine, batches, rate)
        return update._replace(loss=update.loss * (100 if next(steps) == 25 else 1))

    monkeypatch.setattr(DeepSpeedEngine, "step", step)
    with pytest.raises(RankError, match="has jumped") as whole:
        run_here(case)
    steps = itertools.count(25)
    resumed = replace(case, more={"resume": True})
    with pytest.raises(RankError, match="has jumped") as error:
        run_here(resumed)
    assert error.value.message == whole.value.message
    assert "in step 25" in error.value.message


def test_the_losses_of_other_data_are_not_compared(place: Path) -> None:
    """Where a run is continued with them anyway."""
    case = RunCase(place, "other data")
    run_here(case)
    assert len(saved_checkpoints(case.folder)[-1].facts["losses"]) == STEPS
    for name, data, remembered in (
        ("same", case.options.data, STEPS),
        ("other", replace(case.options.data, seed=7), 2),
    ):
        resumed = case.resumed(name, 4)
        resumed.begin()
        options = replace(resumed.options, data=data, resume_anyway=True)
        mesh = meshes.single_rank_mesh(CPU)
        try:
            run_finetuning(resumed.settings, mesh, resumed.plan, options, sys.stdout, False, lambda: None)
        finally:
            meshes.disconnect_ranks()
        assert len(saved_checkpoints(resumed.folder)[-1].facts["losses"]) == remembered
