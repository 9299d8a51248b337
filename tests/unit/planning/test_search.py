"""Searching for a split: what is suggested agrees with what would be chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.config.precisions import precisions_for
from neoxrun.planning.cost import CostModel
from neoxrun.planning.hardware import slowest
from neoxrun.planning.request import TYPICAL_PROMPTS, Requested, Work
from neoxrun.planning.search import Search, lay_out, lay_out_cpu
from neoxrun.planning.split import ModelSplit, Sizing
from support.plans import PUBLISHED, gpus

SIZING = Sizing(PUBLISHED["20B"][0].model, 50432, precisions_for("fp16", "cuda"), "cuda", 2048)


@pytest.mark.parametrize("gigabytes", [3, 6, 11, 16, 23, 38, 46])
def test_the_smallest_fit_is_the_first_count_of_gpus_that_has_a_plan(gigabytes: int) -> None:
    search = Search(SIZING, Requested(context=2048), 64)
    usable = gigabytes * 10**9
    cost = CostModel(SIZING, slowest(gpus(1, "NVIDIA H100 80GB HBM3", 80)), TYPICAL_PROMPTS, 256)
    counts = (count for count in range(1, 65) if replace(search, per_host=count).best(usable, cost))
    smallest = search.smallest_fit(usable)
    assert (smallest.replica_size if smallest else None) == next(counts, None)


def test_every_split_that_can_be_spread_over_the_gpus_is_considered() -> None:
    splits = Search(SIZING, Requested(), 4).splits
    assert {(split.tp, split.pp, split.replicas) for split in splits} == {
        *((1, 1, replicas) for replicas in (1, 2, 3, 4)),
        *((2, 1, 1), (2, 1, 2), (4, 1, 1), (2, 2, 1)),
        *((1, 2, 1), (1, 2, 2), (1, 3, 1), (1, 4, 1)),
    }
    assert len(set(splits)) == len(splits)
    sizes = [split.replica_size for split in splits]
    assert sizes == sorted(sizes)


def test_the_leanest_split_needs_the_least_memory() -> None:
    search = Search(SIZING, Requested(), 6)
    assert search.smallest_need == min(SIZING.rank_bytes(split, 2048) for split in search.splits)
    assert search.leanest.replica_size == 6


def test_of_the_same_time_the_fewest_gpus_win() -> None:
    """Three replicas are as fast as eight for three prompts, and load no sooner."""
    search = Search(SIZING, Requested(tp=1, pp=1), 8)
    cost = CostModel(SIZING, slowest(gpus(1, "NVIDIA H100 80GB HBM3", 80)), Work(3, 200, 2000, 2000), 256)
    found = search.best(76 * 10**9, cost)
    assert found is not None
    assert found.split == ModelSplit(1, 1, 3)


def test_no_tensor_parallel_group_crosses_hosts() -> None:
    assert lay_out(4, 1, Requested(nnodes=2), [1, 2], 2) is None
    assert lay_out(2, 2, Requested(nnodes=2), [1], 2) == ModelSplit(2, 2)
    assert lay_out(2, 1, Requested(nnodes=2), [3, 2, 1], 2) == ModelSplit(2, 1, 2)
    assert lay_out_cpu(SIZING.model, 3, 1, Requested()) is None
    assert lay_out_cpu(SIZING.model, 2, 1, Requested(world_size=6)) == ModelSplit(2, 1, 3)
