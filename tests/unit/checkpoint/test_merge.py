"""Which parts of which shards make up a target rank's tensors: every row once, and the right rule for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxrun.checkpoint.merge import (
    ADAPTER,
    Rule,
    ShardSlice,
    contributing_shards,
    describe_approximations,
    rule_of,
    shard_slices,
)
from neoxrun.config.settings import Merge
from support.checkpoints import tiny

SIZES = st.integers(1, 8)


@given(source_tp=SIZES, rows_of_shard=st.integers(1, 40), tp_size=SIZES)
def test_slices_cover_every_row_exactly_once(source_tp: int, rows_of_shard: int, tp_size: int) -> None:
    size = source_tp * rows_of_shard
    shards = [range(shard * rows_of_shard, (shard + 1) * rows_of_shard) for shard in range(source_tp)]
    share = -(-size // tp_size)
    whole: list[int] = []
    for tp_rank in range(tp_size):
        held: list[int] = []
        for piece in shard_slices(size, source_tp, tp_size, tp_rank):
            assert piece.target == len(held), "without a gap, in order"
            assert piece.length > 0
            rows = shards[piece.shard][piece.start : piece.start + piece.length]
            assert len(rows) == piece.length, "within the shard"
            held += rows
        assert len(held) == min(share, max(0, size - tp_rank * share)), "the share without its padding"
        whole += held
    assert whole == list(range(size))


def test_slices_of_two_shards_for_three_ranks() -> None:
    assert [shard_slices(12, 2, 3, rank) for rank in range(3)] == [
        [ShardSlice(0, 0, 0, 4)],
        [ShardSlice(0, 4, 0, 2), ShardSlice(1, 0, 2, 2)],
        [ShardSlice(1, 2, 0, 4)],
    ]


def test_a_rank_of_padding_alone_has_no_slices() -> None:
    assert [shard_slices(4, 1, 3, rank) for rank in range(3)] == [
        [ShardSlice(0, 0, 0, 2)],
        [ShardSlice(0, 2, 0, 2)],
        [],
    ]


@pytest.mark.parametrize("name", ["attention.dense.bias", "mlp.dense_4h_to_h.bias"])
def test_output_biases_are_summed_with_the_parallel_residual_alone(name: str) -> None:
    assert rule_of(name, tiny(gpt_j_residual=True)) is Rule.SUM
    assert rule_of(name, tiny(gpt_j_residual=False)) is Rule.ONE


@pytest.mark.parametrize("name", ["input_layernorm.weight", "norm.bias", "position_embeddings.weight"])
@pytest.mark.parametrize("parallel_residual", [True, False])
def test_other_undivided_tensors_are_averaged(name: str, parallel_residual: bool) -> None:
    assert rule_of(name, tiny(gpt_j_residual=parallel_residual)) is Rule.MEAN


@given(rule=st.sampled_from(Rule), tp_size=SIZES)
def test_at_the_checkpoints_size_each_rank_keeps_its_version(rule: Rule, tp_size: int) -> None:
    ranks = [list(contributing_shards(rule, tp_size, tp_size, rank)) for rank in range(tp_size)]
    assert ranks == [[rank] for rank in range(tp_size)]


@pytest.mark.parametrize(
    ("rule", "first", "others"),
    [(Rule.SUM, [0, 1, 2], []), (Rule.MEAN, [0, 1, 2], [0, 1, 2]), (Rule.ONE, [0], [0])],
)
def test_contributing_shards_at_another_size(rule: Rule, first: list[int], others: list[int]) -> None:
    assert [list(contributing_shards(rule, 3, 2, rank)) for rank in range(2)] == [first, others]


@pytest.mark.parametrize(
    ("names", "merge", "said"),
    [
        (["input_layernorm.weight", "norm.bias"], "average", ["the norms of the checkpoint's 4"]),
        (["norm.weight", "norm.bias"], "fold", ["the final norms of the checkpoint's 4"]),
        (["position_embeddings.weight"], "fold", ["the position embeddings of the checkpoint's 4"]),
        (["mlp.dense_4h_to_h.bias", "norm.scale"], "fold", ["the final norms of", "the output biases of"]),
        ([], "average", []),
    ],
)
def test_what_is_not_exact_is_named(names: list[str], merge: Merge, said: list[str]) -> None:
    texts = describe_approximations(names, 4, merge)
    assert [text.startswith(start) for start, text in zip(said, texts, strict=True)] == [True] * len(said)
    assert all("--tp 4 computes them as they are" in text for text in texts if "biases" not in text)
    assert not any("--tp" in text for text in describe_approximations(names, 4, merge, native=False))


def test_an_adapter_of_norms_that_were_merged_otherwise_is_named() -> None:
    (folded,) = describe_approximations([ADAPTER], 2, "fold", native=False)
    assert "needs --merge average" in folded
    averaged = describe_approximations([ADAPTER, "norm.bias"], 2, "average", native=False)
    assert ["leave out --merge average" in text for text in averaged] == [True, False]
