"""How a model is divided over ranks: pure arithmetic, for planning, loading and the network.

Rank order is GPT-NeoX's: tensor parallel varies fastest, then replicas (data parallel), then pipeline stages.
"""

from __future__ import annotations


def stage_layers(num_layers: int, pipeline: int, stage: int) -> range:
    """The transformer layers of pipeline stage ``stage`` of ``pipeline``; earlier stages take the remainder."""
    base, extra = divmod(num_layers, pipeline)
    first = stage * base + min(stage, extra)
    return range(first, first + base + (stage < extra))


def vocab_shard(vocab_size: int, tensor: int, rank: int) -> range:
    """The vocabulary rows that tensor-parallel rank ``rank`` of ``tensor`` holds.

    Every rank's share has the same number of rows, ``ceil(vocab_size / tensor)``; rows at or beyond ``vocab_size``
    in the last shards are padding, which holds zeros and is removed from the logits.
    """
    rows = -(-vocab_size // tensor)
    return range(rank * rows, (rank + 1) * rows)


def rank_at(tp: int, replicas: int, tp_rank: int, replica: int, stage: int) -> int:
    """The global rank with these coordinates among ``tp`` tensor-parallel ranks x ``replicas`` x stages."""
    return tp_rank + tp * (replica + replicas * stage)
