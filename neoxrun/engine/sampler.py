"""Choosing the next token. Shapes: ``B`` sequences, ``V`` vocabulary.

Each sequence is sampled alone and has a random stream of its own, so that its tokens do not depend on the others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch

from neoxrun.config.sampling import SamplingParams
from neoxrun.errors import RankError


@dataclass(frozen=True)
class Sampled:
    """A chosen token, with its log-probability and those of the most likely tokens where they were requested."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class _Slot:
    params: SamplingParams
    prompt: torch.Tensor
    stream: random.Random
    output: list[int] = field(default_factory=list)


class Sampler:
    """Chooses tokens for the sequences in the slots."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}

    def admit(self, slot: int, prompt: torch.Tensor, params: SamplingParams) -> None:
        """Begin a new sequence in ``slot``; ``prompt`` is int64 ``[T]`` on the logits' device."""
        self._slots[slot] = _Slot(params, prompt, random.Random(params.seed))

    def move(self, source: int, target: int) -> None:
        """Move the sequence in slot ``source`` to slot ``target``."""
        self._slots[target] = self._slots.pop(source)

    def sample(self, logits: torch.Tensor, first_slot: int) -> list[Sampled]:
        """The next token of each sequence.

        Args:
            logits: fp32 ``[B, V]``, of the sequences in slots ``first_slot .. first_slot + B - 1``.
            first_slot: slot of the first row.

        Raises:
            RankError: a row holds NaN, or no finite number.
        """
        slots = [self._slots[first_slot + row] for row in range(len(logits))]
        choices = [
            choose_token(adjust_logits(row, slot.params, slot.prompt, slot.output), slot.params, slot.stream)
            if _is_special(slot.params)
            else row.argmax()
            for row, slot in zip(logits, slots, strict=True)
        ]
        tokens = torch.stack(choices)
        finite = logits.amax(-1).isfinite().all()
        *ids, sound = torch.cat((tokens, finite.view(1).to(tokens))).tolist()
        if not sound:
            raise RankError(
                "the model's output is not a number",
                code="nonfinite_output",
                hint="fp16 overflows in some models: try --dtype bf16 or --dtype fp32.",
            )
        results = []
        for row, slot, token in zip(logits, slots, ids, strict=True):
            slot.output.append(token)
            results.append(_with_logprobs(row, token, slot.params.logprobs))
        return results


def _is_special(params: SamplingParams) -> bool:
    """Whether the choice may be another token than the one with the largest logit."""
    return (
        params.temperature > 0
        or params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
        or bool(params.logit_bias)
    )


def _with_logprobs(logits: torch.Tensor, token: int, top: int | None) -> Sampled:
    """The token with the log-probabilities of the model itself, before penalties, temperature and filters."""
    if top is None:
        return Sampled(token)
    logprobs = logits.log_softmax(-1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    return Sampled(token, float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))


def adjust_logits(
    logits: torch.Tensor, params: SamplingParams, prompt: torch.Tensor, output: list[int]
) -> torch.Tensor:
    """A copy of one row ``[V]`` with penalties and biases applied.

    The repetition penalty is that of Keskar et al. (CTRL, 2019), over prompt and output. Frequency and presence
    penalties count only tokens of the output.
    """
    logits = logits.clone()
    written = torch.tensor(output, dtype=torch.int64, device=logits.device)
    if params.repetition_penalty != 1:
        seen = torch.unique(torch.cat((prompt, written)))
        scores = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if output and (params.frequency_penalty or params.presence_penalty):
        ids, counts = torch.unique(written, return_counts=True)
        logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    return logits


def choose_token(logits: torch.Tensor, params: SamplingParams, stream: random.Random) -> torch.Tensor:
    """One token of one row ``[V]``, as an int64 scalar tensor.

    Sampling is by inversion: one uniform number is looked up in the cumulative probabilities in fp64. So the same seed
    gives the same token where logits differ only by rounding (other splits, other batches). As in GPT-NeoX, top-k is
    applied before top-p, and top-p keeps the token that reaches the limit.
    """
    if params.temperature == 0:
        return logits.argmax()
    logits = logits.double()
    # The largest becomes 0 first: divided by a tiny temperature it would overflow.
    logits = (logits - logits.max()) / params.temperature
    ids = None
    if params.top_k or 0 < params.top_p < 1:
        width = min(params.top_k or len(logits), len(logits))
        logits, ids = logits.topk(width)
    probabilities = logits.softmax(-1)
    if 0 < params.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before > params.top_p, 0)
    if params.min_p:
        probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities.max(), 0)
    cumulative = probabilities.cumsum(-1)
    index = torch.searchsorted(cumulative, cumulative[-1:] * stream.random(), right=True)
    # Rounding can lead beyond the last token that has a probability, which is then the one.
    last = probabilities.nonzero()[-1]
    index = torch.minimum(index, last)[0]
    return index if ids is None else ids[index]
