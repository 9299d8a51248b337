"""What a model in training writes: the most likely tokens, computed without a cache, as texts are short and few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from neoxrun.parallel.mesh import Mesh
from neoxrun.tokenizer import Tokenizer
from neoxrun.training.deepspeed_engine import DeepSpeedEngine

_LENGTH: Final = 40  # tokens of a sample


def write_samples(
    engine: DeepSpeedEngine,
    mesh: Mesh,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    between: Callable[[], None],
    length: int = _LENGTH,
) -> dict[str, str]:
    """The most likely text after each prompt, up to an end of document or text; all ranks do this together.

    Args:
        engine: of the model.
        mesh: this rank among the others.
        tokenizer: the model's.
        prompts: what to continue; an empty one begins a document.
        between: called before each token; what it raises ends the samples.
        length: most tokens of a text.
    """
    context = engine.model.stage.config.max_context
    texts = {}
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        if not ids:
            if tokenizer.start is None:
                continue
            ids = [tokenizer.start]
        begin = len(ids)
        while len(ids) < begin + length:
            between()
            token = _next_token(engine, mesh, ids[-context:])
            if token in (tokenizer.eod, tokenizer.eos):
                break
            ids.append(token)
        texts[prompt] = tokenizer.decode(ids[begin:])
    return texts


def _next_token(engine: DeepSpeedEngine, mesh: Mesh, ids: list[int]) -> int:
    local = engine.logits(torch.tensor([ids], device=mesh.device))
    logits = engine.model.stage.gather_logits(local)
    token = torch.zeros(1, dtype=torch.int64, device=mesh.device)
    if logits is not None:
        token = logits.argmax(-1)
    return int(mesh.broadcast_tokens(token).item())
