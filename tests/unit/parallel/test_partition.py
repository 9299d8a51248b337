"""How layers, vocabulary rows and ranks are divided: nothing is lost, and nothing is held twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from neoxrun.parallel.partition import rank_at, stage_layers, vocab_shard

SIZES = st.integers(1, 9)


@given(layers=st.integers(1, 200), pipeline=SIZES)
def test_stages_divide_the_layers_in_order(layers: int, pipeline: int) -> None:
    stages = [stage_layers(layers, pipeline, stage) for stage in range(pipeline)]
    assert list(itertools.chain(*stages)) == list(range(layers))
    counts = [len(stage) for stage in stages]
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True), "earlier stages take the remainder"


def test_earlier_stages_take_the_remainder() -> None:
    assert [stage_layers(6, 4, stage) for stage in range(4)] == [range(2), range(2, 4), range(4, 5), range(5, 6)]


@given(vocab_size=st.integers(1, 60_000), tensor=SIZES)
def test_vocabulary_shards_are_equal_and_padded_at_the_end(vocab_size: int, tensor: int) -> None:
    shards = [vocab_shard(vocab_size, tensor, rank) for rank in range(tensor)]
    assert len({len(shard) for shard in shards}) == 1
    for shard, following in itertools.pairwise(shards):
        assert shard.stop == following.start
    assert shards[0].start == 0
    assert vocab_size <= shards[-1].stop < vocab_size + tensor


def test_vocabulary_shards_with_padding() -> None:
    assert [vocab_shard(10, 4, rank) for rank in range(4)] == [range(3), range(3, 6), range(6, 9), range(9, 12)]


@given(tp=SIZES, replicas=SIZES, stages=SIZES)
def test_ranks_are_numbered_in_order(tp: int, replicas: int, stages: int) -> None:
    """Tensor parallel varies fastest, then replicas, then stages; every rank occurs once."""
    coordinates = itertools.product(range(stages), range(replicas), range(tp))
    ranks = [rank_at(tp, replicas, tp_rank, replica, stage) for stage, replica, tp_rank in coordinates]
    assert ranks == list(range(tp * replicas * stages))
