"""What must not change a training, and what must: masks, accumulation, dropout, number formats, the ranks' own norms.

The model is the small one of the reference answers, trained for a few steps on random rows, at one rank and at tp 2 x
dp 2.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neoxrun.config.training import ScheduleConfig, TrainingConfig, ZeroConfig
from support.checkpoints import fixture_config
from support.paths import FIXTURES
from support.training import FIXTURES_TRAIN, Curve, TrainingCase, reference_rows, run_curve, run_split

STEPS, ROWS, LENGTH = 4, 4, 24
# With the usual epsilon Adam makes whole steps of gradients that are nothing but rounding.
SETTINGS = TrainingConfig(STEPS, ROWS, 1, ScheduleConfig(1e-3, 1e-3, "constant", 0, STEPS), epsilon=1e-4)
DROPOUT = replace(SETTINGS, hidden_dropout=0.2)
ALL_DROPOUT = replace(DROPOUT, attention_dropout=0.2)
WHOLE = replace(SETTINGS, micro_batch_size=4)
MEANS = replace(SETTINGS, loss_average="gpt-neox")


def random_rows() -> tuple[Tensor, Tensor]:
    """Rows, and which of their targets count: of some rows only few, of one none."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 500, (STEPS * ROWS, LENGTH + 1), generator=generator)
    share = torch.rand(STEPS * ROWS, 1, generator=generator)
    share[2] = 0
    return ids, torch.rand(STEPS * ROWS, LENGTH, generator=generator) < share


def case(training: TrainingConfig, model: str = "tp1", *, masked: bool = False, **options: object) -> TrainingCase:
    folder = FIXTURES / model
    ids, learned = random_rows()
    return TrainingCase(fixture_config(folder), folder, ids, training, learned=learned if masked else None, **options)


ON_ONE = {
    "plain": case(SETTINGS),
    "masked": case(SETTINGS, masked=True),
    "masked, whole": case(WHOLE, masked=True),
    "masked, means": case(MEANS, masked=True),
    "hidden dropout": case(DROPOUT),
    "hidden dropout, again": case(replace(DROPOUT, checkpoint_activations=True)),
    "all dropout": case(ALL_DROPOUT),
    "all dropout, again": case(replace(ALL_DROPOUT, checkpoint_activations=True)),
    "bf16": case(SETTINGS, precision="bf16"),
    "bf16, zero3": case(replace(SETTINGS, zero=ZeroConfig(3)), precision="bf16"),
    "no clipping": case(replace(SETTINGS, gradient_clipping=0.0)),
    "no clipping, zero1": case(replace(SETTINGS, gradient_clipping=0.0, zero=ZeroConfig(1))),
    "own norms": case(SETTINGS, "tp2_native"),
    "sequential": case(SETTINGS, "tp2_sequential"),
}
ON_FOUR = [
    "plain",
    "masked",
    "hidden dropout",
    "all dropout",
    "all dropout, again",
    "own norms",
    "sequential",
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    cases = dict(ON_ONE)
    if FIXTURES_TRAIN.is_dir():
        rows = reference_rows().flatten(0, 1)
        for micro in (1, 4):
            training = replace(MEANS, micro_batch_size=micro, train_iters=1)
            learned = rows[:, :-1] != 0
            cases[f"eod, micro {micro}"] = replace(case(training), ids=rows, learned=learned)
    return run_split(run_curve, cases, (1, 1), tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    return run_split(run_curve, {name: ON_ONE[name] for name in ON_FOUR}, (2, 2), tmp_path_factory.mktemp("four"))


def losses(curve: Curve) -> list[float]:
    return [step.loss for step in curve.steps]


def test_accumulation_is_one_batch_by_tokens(one: dict[str, Curve]) -> None:
    assert losses(one["masked"]) == pytest.approx(losses(one["masked, whole"]), abs=1e-6)
    norms = [[step.grad_norm for step in one[name].steps] for name in ("masked", "masked, whole")]
    assert norms[0] == pytest.approx(norms[1], abs=1e-5)


def test_means_of_means_are_another_loss(one: dict[str, Curve]) -> None:
    assert abs(losses(one["masked"])[0] - losses(one["masked, means"])[0]) > 1e-3


@pytest.mark.skipif(not FIXTURES_TRAIN.is_dir(), reason="no fixtures-train (NEOXRUN_SHARED names its parent)")
@pytest.mark.parametrize(("micro", "loss"), [(4, 7.386021), (1, 7.385545)])
def test_masks_are_averaged_as_by_gpt_neox(micro: int, loss: float, one: dict[str, Curve]) -> None:
    assert one[f"eod, micro {micro}"].steps[0].loss == pytest.approx(loss, abs=2e-6)


@pytest.mark.parametrize("name", ["plain", "masked", "hidden dropout", "own norms", "sequential"])
def test_the_split_changes_nothing(name: str, one: dict[str, Curve], four: dict[str, Curve]) -> None:
    assert losses(four[name]) == pytest.approx(losses(one[name]), abs=1e-5)
    for key, tensor in one[name].weights.items():
        found = four[name].weights[key]
        torch.testing.assert_close(found, tensor, atol=2e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def test_dropout_is_drawn_again_where_a_layer_is_computed_again(one: dict[str, Curve], four: dict[str, Curve]) -> None:
    for curves, name in ((one, "hidden dropout"), (one, "all dropout"), (four, "all dropout")):
        again = curves.get(f"{name}, again")
        assert again is not None
        assert losses(curves[name]) == losses(again)


def test_dropout_changes_the_loss(one: dict[str, Curve], four: dict[str, Curve]) -> None:
    plain, hidden, everything = (losses(one[name]) for name in ("plain", "hidden dropout", "all dropout"))
    assert min(abs(a - b) for a, b in zip(plain, hidden, strict=True)) > 1e-3
    assert min(abs(a - b) for a, b in zip(hidden, everything, strict=True)) > 1e-5
    assert losses(four["all dropout"]) != everything, "attention's heads draw on each rank"


@pytest.mark.parametrize("name", ["bf16", "bf16, zero3"])
def test_bf16_has_a_master_copy(name: str, one: dict[str, Curve]) -> None:
    curve = one[name]
    assert losses(curve) == pytest.approx(losses(one["plain"]), abs=0.03)
    for key, tensor in one["plain"].weights.items():
        rounded = curve.weights[key].float()
        bound = 4e-3 * tensor.abs().max().item() + STEPS * 1e-3 / 2
        assert (rounded - tensor).abs().mean() < bound, key


def test_no_clipping_is_none(one: dict[str, Curve]) -> None:
    assert losses(one["no clipping"]) == pytest.approx(losses(one["no clipping, zero1"]), abs=1e-5)
    norms = [step.grad_norm for step in one["no clipping"].steps]
    assert norms == pytest.approx([step.grad_norm for step in one["no clipping, zero1"].steps], abs=1e-5)
    assert math.isclose(norms[0], one["plain"].steps[0].grad_norm, abs_tol=1e-6), "the norm is that before clipping"
