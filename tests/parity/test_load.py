"""GPT-NeoX's own checkpoints at any split: the ranks together hold what is in the files."""

from __future__ import annotations

import pytest
import torch

from support.checkpoints import (
    REFERENCE_CHECKPOINTS,
    assert_same_tensors,
    fixture_config,
    join,
    load_all,
    raw_shards,
)
from support.paths import FIXTURES


@pytest.mark.parametrize("name", REFERENCE_CHECKPOINTS)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_reference_checkpoints_at_any_split(name: str, tp: int, pp: int) -> None:
    folder = FIXTURES / name
    config = fixture_config(folder)
    shards = raw_shards(folder)
    ranks = load_all(folder, config, tp, pp=pp, merge="average")  # test_splits has the folded ones
    if tp == len(shards):
        for rank, shard in zip(ranks, shards, strict=True):
            assert_same_tensors(rank, shard, rtol=0, atol=0)  # each rank's own norms and biases, bit for bit
    else:
        for rank in ranks[1:]:
            norms = {key for key in rank if "norm" in key.name}
            assert all(torch.equal(rank[key], ranks[0][key]) for key in norms), "merged norms are the same on all ranks"
        expected = join(shards, parallel_residual=config.gpt_j_residual)
        assert_same_tensors(join(ranks, parallel_residual=config.gpt_j_residual), expected, rtol=0, atol=1e-6)
