"""Which rows each rank computes in which micro-batch, and what their tokens weigh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neoxrun.config.training import ScheduleConfig
from neoxrun.parallel.mesh import Mesh
from neoxrun.training.deepspeed_engine import MicroBatch, Update
from neoxrun.training.trainer import Trainer
from support.ranks import CPU
from support.training import CONSTANT, ListedRows

LENGTH = 3


class Recorder:
    """An engine that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[MicroBatch] = []
        self.rates: list[float] = []

    def step(self, batches: Iterable[MicroBatch], rate: float) -> Update:
        self.batches += batches
        self.rates.append(rate)
        return Update(torch.tensor(1.5), 2.0, True, False, torch.tensor([1.5]))

    def evaluate(self, batches: Iterable[MicroBatch]) -> Tensor:
        given = list(batches)
        self.batches += given
        return torch.arange(float(len(given)))


def trainers(micro: int, ranks: int, training: Any, learned: Tensor | None = None) -> list[Trainer]:
    """One for each data-parallel rank. Row ``n`` has the ids ``n``."""
    ids = torch.arange(64)[:, None].repeat(1, LENGTH + 1)
    rows, valid = ListedRows(ids, learned), ListedRows(ids[:10], None)
    meshes = [Mesh(1, 1, ranks, 0, 0, rank, CPU) for rank in range(ranks)]
    engine: Any = Recorder
    return [Trainer(engine(), mesh, replace(training, micro_batch_size=micro), rows, valid) for mesh in meshes]


def recorded(trainer: Trainer) -> list[MicroBatch]:
    engine: Any = trainer.engine
    batches: list[MicroBatch] = engine.batches
    return batches


EIGHT = replace(CONSTANT, train_batch_size=8, eval_iters=1)


@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (8, 1), (2, 2), (1, 4), (4, 2)])
def test_a_step_has_the_same_rows_however_they_are_shared(micro: int, ranks: int) -> None:
    made = trainers(micro, ranks, EIGHT)
    results = [trainer.step(2, 2) for trainer in made]
    numbered = {batch.number: batch.ids[:, 0].tolist() for trainer in made for batch in recorded(trainer)}
    assert [row for number in sorted(numbered) for row in numbered[number]] == list(range(16, 24))
    assert {len(rows) for rows in numbered.values()} == {micro}
    assert {result.tokens for result in results} == {8 * LENGTH}
    assert min(numbered) == 16 // micro, "no number of another step's"


def test_targets_are_the_next_ids() -> None:
    (trainer,) = trainers(8, 1, EIGHT)
    trainer.step(0, 0)
    (batch,) = recorded(trainer)
    assert batch.ids.shape == batch.targets.shape == batch.weights.shape == (8, LENGTH)
    assert batch.weights.dtype == torch.float32


@given(seed=st.integers(0, 1000), split=st.sampled_from([(1, 1), (8, 1), (2, 2), (1, 4), (4, 2)]))
def test_every_learned_token_weighs_the_same(seed: int, split: tuple[int, int]) -> None:
    micro, ranks = split
    generator = torch.Generator().manual_seed(seed)
    learned = torch.rand(64, LENGTH, generator=generator) < torch.rand(64, 1, generator=generator)
    learned[0, 0] = True
    made = trainers(micro, ranks, EIGHT, learned)
    for trainer in made:
        trainer.step(0, 0)
    batches = [batch for trainer in made for batch in recorded(trainer)]
    weights = torch.cat([batch.weights for batch in sorted(batches, key=lambda batch: batch.number)])
    # The engine takes the mean over micro-batches and ranks.
    expected = learned[:8] * len(batches) / learned[:8].sum()
    torch.testing.assert_close(weights, expected.float())


def test_gpt_neox_averages_each_micro_batch() -> None:
    learned = torch.ones(64, LENGTH, dtype=torch.bool)
    learned[0] = False
    learned[1, 1:] = False
    (trainer,) = trainers(2, 1, replace(EIGHT, loss_average="gpt-neox"), learned)
    trainer.step(0, 0)
    first, second, *_ = recorded(trainer)
    assert first.weights.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert second.weights.flatten().tolist() == pytest.approx([1 / 6] * 6)


def test_a_step_from_which_nothing_is_learned_weighs_nothing() -> None:
    for average in ("tokens", "gpt-neox"):
        training = replace(EIGHT, loss_average=average)
        (trainer,) = trainers(8, 1, training, torch.zeros(64, LENGTH, dtype=torch.bool))
        trainer.step(0, 0)
        assert not recorded(trainer)[0].weights.any()


def test_the_rate_is_that_of_the_steps_that_were_applied() -> None:
    schedule = ScheduleConfig(1.0, 0.0, "linear", 4, 8)
    (trainer,) = trainers(8, 1, replace(EIGHT, schedule=schedule))
    rates = [trainer.step(index, applied).lr for index, applied in ((3, 3), (4, 3), (5, 4))]
    assert rates == [0.75, 0.75, 1.0]


def test_evaluations_go_on_and_begin_again() -> None:
    (trainer,) = trainers(8, 1, EIGHT)
    assert trainer.evaluate(0, lambda: None) == 0
    trainer.evaluate(1, lambda: None)
    first, second = recorded(trainer)
    assert first.ids[:, 0].tolist() == list(range(8))
    assert second.ids[:, 0].tolist() == [8, 9, *range(6)]


def test_an_evaluation_can_end_between_its_batches() -> None:
    (trainer,) = trainers(2, 1, replace(EIGHT, eval_iters=3))
    looks = []
    trainer.evaluate(0, lambda: looks.append(1))
    assert len(looks) == 3
    assert len(recorded(trainer)) == 12

    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(0, end)
    assert len(recorded(trainer)) == 12
