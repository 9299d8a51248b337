"""Dropout that follows from where it is drawn, and the residual stream that is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neoxrun.model.norms import LayerNorm
from neoxrun.model.training_form import Alone, Dropout, TrainingForm, TrainingStream
from support.ranks import CPU

ONES = torch.ones(2000)


def dropout(*, tp_rank: int = 0, seed: int = 1, hidden: float = 0.25, micro_batch: int = 0, layer: int = 0) -> Dropout:
    made = Dropout(seed, CPU, tp_rank, hidden=hidden)
    made.active = True
    made.begin(micro_batch)
    made.enter(layer)
    return made


def test_what_is_kept_is_scaled_up() -> None:
    found = dropout().hidden(ONES)
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.03)


def test_draws_are_the_same_in_the_same_place_and_no_other() -> None:
    first = dropout().hidden(ONES)
    assert torch.equal(dropout().hidden(ONES), first)
    for other in (dropout(seed=2), dropout(micro_batch=1), dropout(layer=1)):
        assert not torch.equal(other.hidden(ONES), first)
    same = dropout()
    assert torch.equal(same.hidden(ONES), first)
    assert not torch.equal(same.hidden(ONES), first), "the second draw in a layer is another"
    same.enter(0)
    assert torch.equal(same.hidden(ONES), first), "a layer that is computed again draws the same"


def test_ranks_draw_alike_for_whole_tensors_only() -> None:
    ranks = [dropout(tp_rank=rank) for rank in range(2)]
    whole = [rank.whole(ONES, 0.5) for rank in ranks]
    divided = [rank.divided(ONES, 0.5) for rank in ranks]
    assert torch.equal(*whole)
    assert not torch.equal(*divided)


@pytest.mark.parametrize("case", ["inactive", "probability 0"])
def test_no_dropout_is_no_copy(case: str) -> None:
    made = dropout(hidden=0.0 if case == "probability 0" else 0.5)
    made.active = case != "inactive"
    assert made.hidden(ONES) is ONES
    assert made.attention() == 0


class Doubling(Alone):
    """Two ranks that have the same."""

    def __init__(self) -> None:
        self.copied: list[Tensor] = []

    def reduce(self, x: Tensor) -> Tensor:
        return 2 * x

    def copy(self, x: Tensor) -> Tensor:
        self.copied.append(x)
        return x


def test_the_stream_sums_over_ranks_and_copies_what_divided_layers_read() -> None:
    collectives = Doubling()
    stream = TrainingStream(TrainingForm(collectives, Dropout(0, CPU, 0)))
    norm = LayerNorm(4, 1e-5)
    norm.weight, norm.bias = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.zeros(4))
    x, part = torch.arange(8.0).view(2, 4), torch.ones(2, 4)
    total, (normed,) = stream.add_and_normalize(x, (part, part), (norm,))
    assert torch.equal(total, x + 4)
    assert collectives.copied[0] is normed
    assert torch.equal(stream.add(x, (part,)), x + 2)
    assert stream.add(x, ()) is x


def test_parts_of_a_sum_have_the_same_mask_on_all_ranks() -> None:
    streams = [TrainingStream(TrainingForm(Alone(), dropout(tp_rank=rank))) for rank in range(2)]
    zero = torch.zeros(1000)
    first, second = (stream.add(zero, (torch.ones(1000), torch.ones(1000))) for stream in streams)
    assert torch.equal(first, second)
    assert len(first.unique()) == 3, "the two parts have different ones"
