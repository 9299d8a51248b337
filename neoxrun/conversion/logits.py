"""The logits of a checkpoint on a few prompts, one layer at a time: no more than one layer is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import Adapter
from neoxrun.checkpoint.layout import Checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import Merge, ModelConfig
from neoxrun.conversion.numbers import largest
from neoxrun.model.batch import Batch
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.lora import apply_adapter
from neoxrun.model.tree import TreeAttention
from neoxrun.parallel.mesh import Mesh

PROMPTS: Final = (
    "The quick brown fox jumps over the lazy dog, and",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "In 1969, two people walked on the Moon for the first time. Their names were",
    "Ein Satz auf Deutsch, 한국어 한 문장, и ещё один: 3.14159 * 2 =",
)
"""The fixed prompts on which both sides of a conversion are compared."""

_MOST_TOKENS: Final = 48  # of a prompt
_CPU: Final = torch.device("cpu")


def prompt_ids(encoded: Sequence[Sequence[int]], rows: int, context: int) -> list[list[int]]:
    """Prompts as the model can read them: cut to its context, without ids beyond the vocabulary.

    Args:
        encoded: the prompts' token ids; empty where there is no tokenizer.
        rows: of the vocabulary.
        context: most tokens of a sequence.
    """
    if not encoded:
        encoded = [[(7919 * at + 104729 * number) % rows for at in range(_MOST_TOKENS)] for number in range(4)]
    cut = [[token for token in ids if token < rows][: min(context, _MOST_TOKENS)] for ids in encoded]
    return [ids for ids in cut if ids]


@torch.inference_mode()
def stream_logits(
    checkpoint: Checkpoint,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    adapter: Adapter | None = None,
    merge: Merge = "fold",
) -> list[Tensor]:
    """The logits of every position in fp32, ``[tokens, vocabulary]`` for each prompt.

    Args:
        checkpoint: of any kind and split.
        config: the network.
        prompts: token ids, at least one each.
        adapter: is computed next to the weights, not merged into them; None: there is none.
        merge: what becomes of norms that differ between the checkpoint's ranks.

    Raises:
        CheckpointError: as ``load_weights``.
    """
    rows = read_vocab_rows(checkpoint, config)
    x: Tensor | None = None
    batch: Batch | None = None
    for number in range(config.num_layers):
        # A pipeline of as many stages as layers, whose stages are built one after the other.
        mesh = Mesh(1, config.num_layers, 1, 0, number, 0, _CPU)
        stage = Stage(config, mesh, rows, _CPU, precisions_for("fp32", "cpu"))
        load_weights(
            checkpoint,
            stage.targets(),
            stage.assign,
            config=config,
            tp_rank=0,
            tp_size=1,
            device=_CPU,
            dtype=torch.float32,
            merge=merge,
        )
        if adapter is not None:
            apply_adapter(stage, adapter)
        batch = batch or _batch(stage, prompts)
        x = stage(batch, x)
        if mesh.last_stage:
            x = stage.head(x)[:, :rows]
        del stage
    assert x is not None
    return list(torch.split(x, [len(ids) for ids in prompts]))


def _batch(stage: Stage, prompts: Sequence[Sequence[int]]) -> Batch:
    """All prompts in one pass."""
    lengths = torch.tensor([len(ids) for ids in prompts])
    starts = torch.tensor([0, *accumulate(lengths.tolist())][:-1])
    columns = torch.arange(int(lengths.max()))
    present = columns < lengths[:, None]
    padded = (starts[:, None] + columns).masked_fill(~present, 0)
    positions = torch.cat([torch.arange(len(ids)) for ids in prompts])
    line = present.flatten().nonzero()[:, 0]
    attention = TreeAttention(padded, line, None, stage.rotary, positions, stage.cache_dtype)
    return Batch(torch.tensor([token for ids in prompts for token in ids]), positions, attention)


def compare_logits(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, int, int]:
    """The largest difference, at how many positions both sides' most likely token is the same, and how many there are.

    The difference is infinite where one is not a number. Rows that only one side has, which pad its vocabulary, are
    left out.
    """
    most, same, count = 0.0, 0, 0
    for one, other in zip(first, second, strict=True):
        rows = min(one.shape[1], other.shape[1])
        left, right = one[:, :rows], other[:, :rows]
        most = max(most, largest(left - right))
        same += int((left.argmax(-1) == right.argmax(-1)).sum())
        count += len(left)
    return most, same, count
