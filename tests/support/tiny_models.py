"""Real networks whose answers are known in advance, and a tokenizer for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from neoxrun.config.precisions import precisions_for
from neoxrun.config.settings import TokenizerConfig
from neoxrun.config.tensors import TensorKey
from neoxrun.engine.replica import Replica
from neoxrun.engine.runner import Runner
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.tokenizer import Tokenizer, load_tokenizer
from support.checkpoints import tiny
from support.paths import DEMO

CPU = torch.device("cpu")
_WIDTH = 64


def demo_tokenizer() -> Tokenizer:
    return load_tokenizer(TokenizerConfig("HFTokenizer", DEMO / "tokenizer.json", None))


def reciter(script: Sequence[int], rows: int, *, cache_bytes: int = 2**30) -> Replica:
    """After ``n`` tokens, whichever they are, the likeliest next one is ``script[n - 1]``."""
    directions = _directions(rows)
    positions = directions[list(script)]
    return _replica(rows, len(script), torch.zeros(rows, _WIDTH), positions, directions, cache_bytes)


def successor(follow: Callable[[int], int], rows: int, length: int, *, cache_bytes: int = 2**30) -> Replica:
    """After token ``t`` the likeliest next one is ``follow(t)``."""
    directions = _directions(rows)
    words = directions[[follow(token) for token in range(rows)]]
    return _replica(rows, length, words, torch.zeros(length, _WIDTH), directions, cache_bytes)


def random_replica(
    rows: int, length: int, *, cache_bytes: int = 2**30, page_size: int | None = None, ahead: int | None = None
) -> Replica:
    """Every token depends on all before it."""
    stage = Stage(
        tiny(seq_length=length, max_position_embeddings=length),
        single_rank_mesh(CPU),
        rows,
        CPU,
        precisions_for("fp32", "cpu"),
    )
    generator = torch.Generator().manual_seed(0)
    for key, shape in stage.targets().items():
        stage.assign(key, torch.randn(shape, generator=generator))
    return Replica(Runner(stage, cache_bytes, page_size=page_size, ahead=ahead))


def _directions(rows: int) -> torch.Tensor:
    """Vectors that are far from each other."""
    noise = torch.randn(rows, _WIDTH, generator=torch.Generator().manual_seed(0))
    noise = noise - noise.mean(-1, keepdim=True)
    return noise / noise.norm(dim=-1, keepdim=True)


def _replica(
    rows: int, length: int, words: torch.Tensor, positions: torch.Tensor, head: torch.Tensor, cache_bytes: int
) -> Replica:
    """Layers that add nothing: what enters comes out."""
    config = tiny(
        num_layers=1,
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        seq_length=length,
        max_position_embeddings=length,
        pos_emb="learned",
    )
    stage = Stage(config, single_rank_mesh(CPU), rows, CPU, precisions_for("fp32", "cpu"))
    known = {
        TensorKey(0, "word_embeddings.weight"): words,
        TensorKey(0, "position_embeddings.weight"): positions,
        TensorKey(4, "norm.weight"): torch.ones(_WIDTH),
        TensorKey(5, "final_linear.weight"): head,
    }
    for key, shape in stage.targets().items():
        stage.assign(key, known.get(key, torch.zeros(shape)))
    return Replica(Runner(stage, cache_bytes))
