"""transformers on the same shape: as many parameters, the same prompts, and fewer of them where memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neoxrun.benchmark.cases import Case
from neoxrun.benchmark.floors import Shape
from neoxrun.benchmark.reference import build_transformers, measure_reference
from neoxrun.planning.memory import model_parameters
from support.checkpoints import tiny
from support.tiny_models import CPU

ROWS = 40
CONTEXT = 64
MODEL = tiny(seq_length=CONTEXT, max_position_embeddings=CONTEXT)
CASES = [
    Case("decode", (4,) * 3, (6,) * 3),
    Case("prefill", (20,) * 3, (1,) * 3),
    Case("mixed", (4, 9, 2), (3, 1, 7)),
]


@pytest.fixture(scope="module")
def network() -> Any:
    pytest.importorskip("transformers", reason="transformers is what is measured")
    return build_transformers(Shape(MODEL, ROWS, "fp32"), CPU)


def test_the_network_is_of_the_same_shape(network: Any) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == model_parameters(MODEL, ROWS)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_every_case_is_measured(network: Any, case: Case) -> None:
    rate = measure_reference(network, case, ROWS, CPU)
    assert rate is not None
    assert rate > 0


class Small:
    """A network that has memory for a few prompts at a time, and notes how many it got."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.done: list[tuple[int, int]] = []

    def generate(self, ids: torch.Tensor, *, max_new_tokens: int, stopping_criteria: Any, **rest: Any) -> torch.Tensor:
        if len(ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for note in stopping_criteria or []:
            note(ids, ids)
        self.done.append((len(ids), max_new_tokens))
        return torch.zeros(len(ids), ids.shape[1] + max_new_tokens)


def test_groups_are_halved_until_they_fit() -> None:
    network = Small(2)
    case = Case("prefill", (5,) * 6, (1,) * 6)
    assert measure_reference(network, case, ROWS, CPU) is not None
    assert network.done[-6:] == [(1, 1)] * 6
    assert all(count == 1 for count, _ in network.done), "6, 3 and then 1"


def test_a_batch_of_decoding_is_not_divided() -> None:
    network = Small(2)
    assert measure_reference(network, Case("decode", (5,) * 3, (4,) * 3), ROWS, CPU) is None
    assert network.done == []
    assert measure_reference(network, Case("decode", (5,) * 2, (4,) * 2), ROWS, CPU) is not None


def test_other_errors_are_not_hidden() -> None:
    class Broken:
        def generate(self, *arguments: Any, **rest: Any) -> None:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        measure_reference(Broken(), CASES[0], ROWS, CPU)
