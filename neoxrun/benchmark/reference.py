"""The same cases with Hugging Face's transformers, on the same shape with random weights: how long does it take there?

A group of prompts is padded on the left to one length and answered until its longest answer is complete, which is how
``generate`` of transformers works; only the tokens that were asked for count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from neoxrun.benchmark.cases import Case, warm_up
from neoxrun.benchmark.floors import Shape
from neoxrun.benchmark.machine import synchronize
from neoxrun.benchmark.measure import median_rate
from neoxrun.errors import classify
from neoxrun.model.dtypes import DTYPES

_MOST_TOGETHER = 64  # prompts of the mixed set; half as many after each time that memory runs out


def build_transformers(shape: Shape, device: torch.device) -> Any:
    """Its network of this shape with random weights, on a device."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    model = shape.model
    config = GPTNeoXConfig(
        vocab_size=shape.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        intermediate_size=model.intermediate_size,
        hidden_act="gelu" if model.gelu == "erf" else "gelu_fast",
        rotary_pct=model.rotary_pct,
        rotary_emb_base=model.rotary_emb_base,
        max_position_embeddings=model.seq_length,
        use_parallel_residual=model.gpt_j_residual,
        tie_word_embeddings=model.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[shape.weights])
    try:
        with torch.device(device):
            return GPTNeoXForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def measure_reference(network: Any, case: Case, vocab_size: int, device: torch.device) -> float | None:
    """Tokens a second, counted as ``measure.answer_case`` does, after a warm-up; None where memory runs out.

    Args:
        network: see ``build_transformers``.
        case: what is answered, with the prompts that neoxrun was given.
        vocab_size: prompts consist of ids below it.
        device: of the network.
    """
    together = _MOST_TOGETHER if case.what == "mixed" else case.batch
    least = together if case.what == "decode" else 1
    while together >= least:
        try:
            return _measure(network, case, vocab_size, together, device)
        except (RuntimeError, MemoryError) as error:
            if classify(error).code != "out_of_memory":
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        together //= 2
    return None


def _measure(network: Any, case: Case, vocab_size: int, together: int, device: torch.device) -> float:
    def answer(part: Case, seed: int) -> float:
        prompts = part.draw(vocab_size, seed)
        if case.what == "decode":
            return _answer_decode(network, part, prompts, device)
        return _answer_groups(network, part, prompts, together, device)

    answer(warm_up(case, "cpu"), 0)  # on a GPU too, since no graphs are captured
    return median_rate(lambda seed: answer(case, seed))


def _answer_decode(network: Any, case: Case, prompts: Sequence[list[int]], device: torch.device) -> float:
    """New tokens a second after the first of each sequence."""
    first: list[float] = []

    def note(ids: torch.Tensor, scores: torch.Tensor, **rest: Any) -> torch.Tensor:
        if not first:
            synchronize(device)
            first.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=device)

    _generate(network, prompts, case.new[0], device, note)
    return case.batch * (case.new[0] - 1) / (time.perf_counter() - first[0])


def _answer_groups(
    network: Any, case: Case, prompts: Sequence[list[int]], together: int, device: torch.device
) -> float:
    """Tokens a second of all groups, one after the other."""
    start = time.perf_counter()
    for first in range(0, case.batch, together):
        group = slice(first, first + together)
        _generate(network, prompts[group], max(case.new[group]), device)
    return case.counted / (time.perf_counter() - start)


def _generate(
    network: Any,
    prompts: Sequence[list[int]],
    new: int,
    device: torch.device,
    note: Callable[..., torch.Tensor] | None = None,
) -> None:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    with torch.inference_mode():
        out = network.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=0,
            stopping_criteria=None if note is None else [note],
        )
    synchronize(device)
    assert out.shape == (len(prompts), width + new), "no answer ends early"
