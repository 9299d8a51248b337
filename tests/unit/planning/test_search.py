"""Searching for a split: what is suggested agrees with what would be chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neoxrun.config.precisions import precisions_for
from neoxrun.planning.request import Requested
from neoxrun.planning.search import Search, lay_out, lay_out_cpu
from neoxrun.planning.split import ModelSplit, Sizing
from support.plans import PUBLISHED

SIZING = Sizing(PUBLISHED["20B"][0].model, 50432, precisions_for("fp16", "cuda"), "cuda", 2048)


@pytest.mark.parametrize("gigabytes", [3, 6, 11, 16, 23, 38, 46])
def test_the_smallest_fit_is_the_first_count_of_gpus_that_has_a_plan(gigabytes: int) -> None:
    search = Search(SIZING, Requested(context=2048), 64)
    usable = gigabytes * 10**9
    counts = (count for count in range(1, 65) if replace(search, per_host=count).best(usable))
    smallest = search.smallest_fit(usable)
    assert (smallest.replica_size if smallest else None) == next(counts, None)


def test_options_need_less_memory_the_larger_they_are() -> None:
    options = Search(SIZING, Requested(), 16).options
    assert options[0] == ModelSplit(1, 1, 16)
    sizes = [split.replica_size for split in options]
    needs = [SIZING.rank_bytes(split, 2048) for split in options]
    assert sizes == sorted(set(sizes))
    assert needs == sorted(set(needs), reverse=True)


def test_no_tensor_parallel_group_crosses_hosts() -> None:
    assert lay_out(4, 1, Requested(nnodes=2), [1, 2], 2) is None
    assert lay_out(2, 2, Requested(nnodes=2), [1], 2) == ModelSplit(2, 2)
    assert lay_out(2, 1, Requested(nnodes=2), [3, 2, 1], 2) == ModelSplit(2, 1, 2)
    assert lay_out_cpu(SIZING.model, 3, 1, Requested()) is None
    assert lay_out_cpu(SIZING.model, 2, 1, Requested(world_size=6)) == ModelSplit(2, 1, 3)
