"""Runs of GPT-NeoX that are continued, from files that DeepSpeed itself has written next to a run of ours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from neoxrun.checkpoint.files import read_safetensors
from neoxrun.checkpoint.neox_optimizer import open_optimizer
from neoxrun.checkpoint.neox_run import find_neox_run
from neoxrun.config.settings import Precision
from neoxrun.config.tensors import parameters
from neoxrun.config.training import ZeroConfig
from neoxrun.errors import CheckpointError, DataError, Stopped
from neoxrun.generation.interrupt import StopFlag
from neoxrun.training.folder import saved_checkpoints
from support import neox_runs
from support.neox_runs import neox_folder
from support.tiny_models import demo_tokenizer
from support.training_runs import STEPS, TRAINING, RunCase, final_state, metrics, prepare, run_here, run_on_ranks

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")

AFTER = 4
# ZeRO, the number format, and whether gradients are summed in fp32, for which DeepSpeed has another optimizer.
KINDS: dict[str, tuple[int, Precision, bool]] = {
    "zero1": (1, "fp32", False),
    "zero2 bf16": (2, "bf16", False),
    "bf16 fp32 gradients": (1, "bf16", True),
}

ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "epsilon": 1e-7, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunCase]:
    """Runs on two replicas, of which DeepSpeed has saved each checkpoint, too."""
    place = tmp_path_factory.mktemp("neox")
    prepare(place)
    found = {
        kind: RunCase(
            place,
            kind,
            training=replace(TRAINING, zero=ZeroConfig(stage), fp32_gradients=fp32, **ADAM),
            replicas=2,
            eval_stream=True,
            dtype=dtype,
        )
        for kind, (stage, dtype, fp32) in KINDS.items()
    }
    run_on_ranks([*found.values()], place, neox_runs.__file__)
    for case in found.values():
        (neox_folder(case.folder) / "latest").write_text(f"global_step{AFTER}")
    return found


def continuing(case: RunCase, name: str, neox: Path | None = None, **changes: object) -> RunCase:
    """A run that continues what DeepSpeed has saved of another."""
    neox = neox_folder(case.folder) if neox is None else neox
    continued = find_neox_run(replace(case.settings, checkpoint=neox))
    return replace(case, name=name, checkpoint=neox, more={"continued": continued}, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_moments_and_the_fp32_weights_are_those_of_the_run(kind: str, cases: dict[str, RunCase]) -> None:
    case = cases[kind]
    run = find_neox_run(replace(case.settings, checkpoint=neox_folder(case.folder)))
    assert run is not None
    assert (run.iteration, run.tp, len(run.parts[0])) == (AFTER, 1, 2)
    assert run.adam == ({} if kind == "zero2 bf16" else ADAM)  # of which the elastic form does not tell
    config = case.settings.model
    table = parameters(config, config.padded_vocab_size(demo_tokenizer().vocab_size))
    saved = open_optimizer(run, 0, table)
    assert saved.steps == AFTER
    own = read_safetensors(case.folder / f"global_step{AFTER}" / "training" / "state-model_00.safetensors")
    assert len(own) == 3 * len(table)
    for key, spans in saved.spans.items():
        name = f"layers.{key.layer - 2}.{key.name}" if 2 <= key.layer < 2 + config.num_layers else key.name
        for what, span in spans.items():
            assert torch.equal(span.read(), own[f"{name}.{what}"]), (key, what)


def test_a_run_continues_bit_for_bit_on_the_same_split(cases: dict[str, RunCase]) -> None:
    continued = {kind: continuing(case, f"{kind} continued") for kind, case in cases.items()}
    run_on_ranks([*continued.values()], cases["zero1"].place)
    for kind, case in continued.items():
        expected, found = final_state(cases[kind]), final_state(case)
        assert expected.keys() == found.keys()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == [], kind
        # With the rows of its evaluations.
        assert metrics(case) == [line for line in metrics(cases[kind]) if line["step"] > AFTER]
        assert "eval_loss" in metrics(case)[-1]
        assert sorted(path.name for path in case.folder.glob("global_step*")) == [f"global_step{STEPS}"]


@pytest.mark.parametrize(("stage", "dtype", "apart"), [(0, "fp32", 1e-5), (3, "fp32", 1e-5), (1, "bf16", 1e-2)])
def test_a_run_continues_with_other_replicas_stages_and_formats(
    stage: int, dtype: Precision, apart: float, cases: dict[str, RunCase]
) -> None:
    base = cases["zero1"]
    training = replace(base.training, zero=ZeroConfig(stage))
    case = continuing(base, f"other {stage} {dtype}", training=training, replicas=1, dtype=dtype)
    run_here(case)
    losses, expected = (
        [line["loss"] for line in metrics(one) if "loss" in line and line["step"] > AFTER] for one in (case, base)
    )
    assert losses == pytest.approx(expected, abs=apart)
    state, other = final_state(case), final_state(base)
    # But for those of keys, whose biases have no effect and move by rounding.
    names = [name for name in other if "query_key_value.bias" not in name]
    assert [name for name in names if not torch.allclose(state[name], other[name], atol=apart)] == []


def test_in_gpt_neox_own_folder_nothing_of_it_changes(cases: dict[str, RunCase], tmp_path: Path) -> None:
    """At another split, with one checkpoint kept, and continued by --resume after that."""
    base = cases["zero1"]
    folder = base.place / "together"
    shutil.copytree(neox_folder(base.folder), folder)
    (folder / "config.yml").write_text("# of GPT-NeoX\n")
    later = folder / f"global_step{STEPS}"
    training = replace(base.training, keep=1, save_interval=1)
    case = continuing(base, "together", folder, training=training, replicas=1)
    with pytest.raises(DataError, match=r"holds already .*: global_step6") as refused:
        run_here(case)
    assert refused.value.code == "existing_target"
    shutil.rmtree(later)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "latest"}
    shorter = replace(case, training=replace(training, train_iters=5))
    run_here(shorter)
    assert (folder / "latest").read_text() == "global_step5"
    run_here(replace(case, more={"resume": True, "resume_anyway": True}))
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in folder.glob("global_step*")) == ["global_step2", "global_step4", "global_step6"]
    assert [line["step"] for line in metrics(case) if "loss" in line] == [5, 6]
    expected, found = final_state(base), final_state(case)
    assert found.keys() == expected.keys()
    for name in (name for name in expected if "query_key_value.bias" not in name):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_a_run_that_is_stopped_at_once_starts_again_after_gpt_neox_s_step(
    cases: dict[str, RunCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = cases["zero1"]
    case = continuing(base, "at once", replicas=1)
    with monkeypatch.context() as patched:
        patched.setattr(StopFlag, "raised", property(lambda flag: True, lambda flag, value: None), raising=False)
        with pytest.raises(Stopped, match="before the first step"):
            run_here(case)
    assert not list(case.folder.glob("global_step*"))
    run_here(replace(case, more=case.more | {"resume": True}))
    assert [line["step"] for line in metrics(case) if "loss" in line] == [AFTER + 1, STEPS]
    assert saved_checkpoints(case.folder)[-1].facts["applied"] == STEPS


def test_the_loss_scale_of_fp16_is_read_and_no_object_is_made(cases: dict[str, RunCase]) -> None:
    """Few CPUs train in fp16, so that DeepSpeed's scaler is put into the files of another run."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    case = cases["zero1"]
    folder = case.place / "scaled-neox"
    shutil.copytree(neox_folder(case.folder), folder)
    run = find_neox_run(replace(case.settings, checkpoint=folder))
    assert run is not None
    config = case.settings.model
    table = parameters(config, config.padded_vocab_size(demo_tokenizer().vocab_size))

    def scale_by(scale: float) -> None:
        scaler = DynamicLossScaler(scale, 500, 1.0, delayed_shift=2, consecutive_hysteresis=False)
        for path in (folder / f"global_step{AFTER}").glob("zero_*"):
            saved = torch.load(path, weights_only=False)
            saved["optimizer_state_dict"]["loss_scaler"] = scaler
            torch.save(saved, path)

    scale_by(2.0**12)
    expected = {"cur_scale": 4096.0, "cur_iter": 0, "last_overflow_iter": -1, "cur_hysteresis": 2}
    assert open_optimizer(run, 0, table).scaler == expected
    for impossible in (0.0, float("inf")):
        scale_by(impossible)
        with pytest.raises(CheckpointError, match="loss scaling by"):
            open_optimizer(run, 0, table)


class Member:
    """A member of an enumeration, as Python 3.11.2 pickles it."""

    def __init__(self, of: type, name: str) -> None:
        self._found = of, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self._found


def test_a_stage_is_read_as_every_python_writes_it(cases: dict[str, RunCase]) -> None:
    from deepspeed.runtime.zero.config import ZeroStageEnum

    case = cases["zero1"]
    folder = case.place / "other-python-neox"
    shutil.copytree(neox_folder(case.folder), folder)
    table = parameters(case.settings.model, case.settings.model.padded_vocab_size(demo_tokenizer().vocab_size))

    def steps(stage: str) -> int:
        for path in (folder / f"global_step{AFTER}").glob("zero_*"):
            saved = torch.load(path, weights_only=False)
            saved["optimizer_state_dict"]["zero_stage"] = Member(ZeroStageEnum, stage)
            torch.save(saved, path)
        run = find_neox_run(replace(case.settings, checkpoint=folder))
        assert run is not None
        return open_optimizer(run, 0, table).steps

    assert steps("optimizer_states") == steps("gradients") == AFTER
    with pytest.raises(CheckpointError, match="it was saved with ZeRO stage 3"):
        steps("weights")


def test_a_state_that_is_not_finite_is_refused(cases: dict[str, RunCase]) -> None:
    case = cases["zero1"]
    folder = case.place / "broken-neox"
    shutil.copytree(neox_folder(case.folder), folder)
    path = folder / f"global_step{AFTER}" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    saved = torch.load(path, weights_only=False)
    saved["optimizer_state_dict"]["base_optimizer_state"]["state"][0]["exp_avg_sq"][7] = float("nan")
    torch.save(saved, path)
    broken = continuing(case, "broken", folder, replicas=1)
    with pytest.raises(CheckpointError, match=r"exp_avg_sq of .* holds NaN or infinity") as error:
        run_here(broken)
    assert error.value.code == "nonfinite_weights"
