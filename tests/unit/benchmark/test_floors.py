"""Floors: bytes and operations as the network really has them, and the slower of the two decides."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neoxrun.benchmark.cases import Case
from neoxrun.benchmark.floors import Effort, Hardware, Shape, decode_step, floor_of, operations, read_bytes, whole_case
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import ModelConfig
from support.checkpoints import tiny
from support.tiny_models import random_replica

ROWS = 40
BIG = load_settings(["20B"]).model


@pytest.mark.parametrize(("tp", "gigabytes"), [(1, 40.5), (2, 20.2)])
def test_bytes_of_the_20b(tp: int, gigabytes: float) -> None:
    """As docs/performance.md has them."""
    assert read_bytes(Shape(BIG, 50432, "fp16", tp)) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_stages_read_one_after_the_other() -> None:
    one, two = (read_bytes(Shape(BIG, 50432, "fp16", 1, pp)) for pp in (1, 2))
    assert one == two


def test_bytes_are_those_of_the_stage() -> None:
    stage = random_replica(ROWS, 16).stage
    every = sum(parameter.nbytes for parameter in stage.parameters())
    assert read_bytes(Shape(stage.config, ROWS, "fp32")) == every - stage.word_embeddings.weight.nbytes


def test_a_tied_embedding_is_read_and_learned_positions_are_not() -> None:
    tied = tiny(tie_embeddings=True, pos_emb="learned")
    untied = tiny(tie_embeddings=False, pos_emb="learned")
    assert read_bytes(Shape(tied, ROWS, "fp32")) == read_bytes(Shape(untied, ROWS, "fp32"))


def test_bytes_follow_the_number_format() -> None:
    assert read_bytes(Shape(BIG, 50432, "fp32")) == 2 * read_bytes(Shape(BIG, 50432, "bf16"))


@pytest.mark.parametrize(("prompt", "new"), [(9, 1), (5, 4)])
def test_operations_are_those_that_torch_counts(prompt: int, new: int) -> None:
    """In the linear layers; attention's depends on the kernel."""
    replica = random_replica(ROWS, 16)
    engine = replica.start_engine(slots=1, length=16, ends=())
    engine.add(0, list(range(prompt)), SamplingParams(maximum_tokens=new))
    with FlopCounterMode(display=False) as counter:
        while engine.step():
            pass
    linear = (torch.ops.aten.mm, torch.ops.aten.addmm)
    counted = sum(count for kind, count in counter.get_flop_counts()["Global"].items() if kind in linear)
    effort = whole_case(Case("mixed", (prompt,), (new,)), rows=1)
    shape = Shape(replica.stage.config, ROWS, "fp32")
    assert counted == operations(shape, Effort(effort.steps, effort.tokens, effort.outputs, attended=0))


def test_attention_grows_with_what_the_tokens_see() -> None:
    model = tiny()
    shape = Shape(model, ROWS, "fp32")
    counts = [operations(shape, Effort(1, 1, 1, attended)) for attended in (0, 1, 2, 3)]
    assert {after - before for before, after in pairwise(counts)} == {4 * model.hidden_size * (model.num_layers - 1)}


def test_effort_of_a_step_and_of_a_case() -> None:
    assert decode_step(Case("decode", (32,) * 3, (8,) * 3)) == Effort(1, 3, 3, 3 * 36)
    assert whole_case(Case("mixed", (3, 1), (1, 2)), rows=9) == Effort(2, 3 + 2, 3, 6 + 3)


@pytest.mark.parametrize(
    ("case", "rows", "steps"),
    [
        (Case("mixed", (1, 1), (9, 2)), 2, 9),  # the longest answer
        (Case("mixed", (1,) * 8, (5,) * 8), 2, 20),  # what fits
        (Case("prefill", (4096,) * 3, (1,) * 3), 8, 3),  # what a step takes
    ],
)
def test_steps_of_a_case(case: Case, rows: int, steps: int) -> None:
    assert whole_case(case, rows).steps == steps


@pytest.mark.parametrize("ranks", [{}, {"tp": 2}, {"tp": 2, "pp": 2}], ids=str)
def test_the_slower_of_reading_and_computing_decides(ranks: dict[str, Any]) -> None:
    model: ModelConfig = BIG
    shape = Shape(model, 50432, "fp16", **ranks)
    count = shape.tp * shape.pp
    one, many = Effort(1, 1, 1, 0), Effort(1, 4096, 1, 0)
    hardware = Hardware(3e12, 8e14)
    assert floor_of(shape, one, hardware).bound == "reading"
    assert floor_of(shape, one, hardware).seconds == read_bytes(shape) / 3e12
    assert floor_of(shape, many, hardware).bound == "computing"
    assert floor_of(shape, many, hardware).seconds == operations(shape, many) / (8e14 * count)
