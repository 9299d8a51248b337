"""Choosing the next token of all sequences at once, on their device and without waiting for it.

The uniform number by which a token is chosen comes with the step, so that a choice depends on the sequence's own random
stream and not on its neighbours.

Shapes: ``B`` sequences of a step, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from neoxrun.config.sampling import SamplingParams

_DRAWN_ROWS = 64  # drawn together: some tables of fp64 [rows, V] exist meanwhile


@dataclass(frozen=True)
class Sampled:
    """A chosen token.

    Attributes:
        token: its id.
        finite: whether there was a number to choose by; otherwise the token means nothing.
        logprob, top: its log-probability and those of the most likely tokens, where they were asked for.
    """

    token: int
    finite: bool = True
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Choice:
    """What was chosen in a step, on its way to the host.

    Attributes:
        tokens: int64 ``[B]``, on the device.
        copied: on the host, int64 ``[2, B]``: the tokens, and whether each row of the logits had a finite maximum.
        asked: the rows whose log-probabilities are wanted, and how many of the most likely tokens' of each.
        logprobs: on the host, of the chosen tokens, the values and the ids of the most likely ones, of the asked rows.
        arrived: what tells of the copies' arrival, so that reading does not wait for later steps; None on the CPU.
    """

    tokens: torch.Tensor
    copied: torch.Tensor
    asked: Sequence[tuple[int, int]]
    logprobs: list[torch.Tensor]
    arrived: torch.cuda.Event | None

    def read(self) -> list[Sampled]:
        """Wait for the device, and give each sequence's token."""
        if self.arrived is not None:
            self.arrived.synchronize()
        tokens, finite = self.copied.tolist()
        sampled = [Sampled(token, bool(sound)) for token, sound in zip(tokens, finite, strict=True)]
        if self.asked:
            chosen, values, ids = (tensor.tolist() for tensor in self.logprobs)
            for index, (row, count) in enumerate(self.asked):
                top = tuple(zip(ids[index][:count], values[index][:count], strict=True))
                sampled[row] = replace(sampled[row], logprob=chosen[index], top=top)
        return sampled


class Sampler:
    """Chooses tokens for the sequences in the rows.

    Args:
        rows: how many rows there are.
        vocab_size: ``V``.
        device: of the logits.
    """

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self._rows, self._vocab_size, self._device = rows, vocab_size, device
        self._params: dict[int, SamplingParams] = {}
        # Of all rows, made when the first sequence needs them.
        self._seen: torch.Tensor | None = None  # bool [rows, V]: tokens of prompt and output
        self._counts: torch.Tensor | None = None  # int32 [rows, V]: tokens of the output
        self._bias: torch.Tensor | None = None  # fp32 [rows, V]

    def admit(self, row: int, ids: Sequence[int], written: int, params: SamplingParams) -> None:
        """A sequence enters ``row``; the last ``written`` of its tokens are output."""
        self._params[row] = params
        if params.repetition_penalty != 1:
            self._seen = self._cleared(self._seen, row, torch.bool)
            self._seen[row, self._indices(ids)] = True
        if params.frequency_penalty or params.presence_penalty:
            self._counts = self._cleared(self._counts, row, torch.int32)
            output = self._indices(ids[len(ids) - written :])
            self._counts[row].index_add_(0, output, torch.ones_like(output, dtype=torch.int32))
        if params.logit_bias:
            self._bias = self._cleared(self._bias, row, torch.float32)
            amounts = torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=self._device)
            self._bias[row, self._indices(list(params.logit_bias))] = amounts

    def choose(self, logits: torch.Tensor, rows: Sequence[int], draws: Sequence[float]) -> Choice:
        """The next token of each sequence.

        Args:
            logits: fp32 ``[B, V]``.
            rows: of the ``B`` sequences.
            draws: a uniform number for each of them.
        """
        params = [self._params[row] for row in rows]
        highest, tokens = logits.max(-1)
        adjusted = [index for index, own in enumerate(params) if _is_adjusted(own)]
        sampled = [index for index, own in enumerate(params) if own.temperature > 0]
        if special := sorted({*adjusted, *sampled}):
            scores = logits if len(special) == len(rows) else logits[self._indices(special)]
            if adjusted:
                scores = self._adjust(scores, [rows[index] for index in special], [params[index] for index in special])
            best = scores.argmax(-1)
            drawn = [at for at, index in enumerate(special) if params[index].temperature > 0]
            for first in range(0, len(drawn), _DRAWN_ROWS):
                block = drawn[first : first + _DRAWN_ROWS]
                own, which = [special[at] for at in block], self._indices(block)
                best[which] = self._draw(
                    scores[which], [params[index] for index in own], [draws[index] for index in own]
                )
            tokens[self._indices(special)] = best
        self._note(tokens, rows, params)
        asked = [(index, own.logprobs) for index, own in enumerate(params) if own.logprobs is not None]
        logprobs: list[torch.Tensor] = []
        if asked:
            # Of the model itself: before penalties, temperature and filters.
            which = self._indices([index for index, _ in asked])
            wide = logits[which].log_softmax(-1)
            values, ids = wide.topk(min(max(count for _, count in asked), self._vocab_size))
            logprobs = [wide.gather(-1, tokens[which][:, None])[:, 0], values, ids]
        both = torch.stack((tokens, highest.isfinite().to(tokens)))
        copied, *logprobs = (one.to("cpu", non_blocking=True) for one in (both, *logprobs))
        arrived = None
        if self._device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(self._device))
        return Choice(tokens, copied, asked, logprobs, arrived)

    def _adjust(self, logits: torch.Tensor, rows: Sequence[int], params: Sequence[SamplingParams]) -> torch.Tensor:
        """Penalties and biases.

        The repetition penalty is Keskar et al.'s (CTRL, 2019), over prompt and output; frequency and presence penalties
        are subtracted for tokens of the output only.
        """
        which = self._indices(rows)
        if self._seen is not None:
            penalty = self._column([own.repetition_penalty for own in params])
            punished = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self._seen[which] & (penalty != 1), punished, logits)
        if self._counts is not None:
            counts = self._counts[which]
            frequency = self._column([own.frequency_penalty for own in params])
            presence = self._column([own.presence_penalty for own in params])
            logits = logits - torch.where(counts > 0, frequency * counts + presence, 0.0)
        if self._bias is not None:
            has = self._column([float(bool(own.logit_bias)) for own in params])
            logits = logits + torch.where(has > 0, self._bias[which], 0.0)
        return logits

    def _draw(self, logits: torch.Tensor, params: Sequence[SamplingParams], draws: Sequence[float]) -> torch.Tensor:
        """A token of each row by inversion: one uniform number against the cumulative probabilities, in fp64.

        So the same number gives the same token where logits differ only by rounding (other splits, other batches). As
        in GPT-NeoX, top-k is applied before top-p, and top-p keeps the first token that reaches the limit.
        """
        logits = logits.double()
        # The largest first becomes 0: divided by a temperature next to nothing it would overflow.
        logits = logits - logits.amax(-1, keepdim=True)
        logits = logits / self._column([own.temperature for own in params], torch.float64)
        width = self._vocab_size
        kept = [own.top_k or (width if 0 < own.top_p < 1 else 0) for own in params]
        picked = torch.empty(len(params), dtype=torch.int64, device=self._device)
        groups: dict[str, list[int]] = {}
        for index, count in enumerate(kept):
            # Sorting the whole vocabulary takes far longer than finding its top, so the two are kept apart.
            groups.setdefault("all" if not count else "sorted" if count >= width else "top", []).append(index)
        for name, members in groups.items():
            which = self._indices(members)
            own = [params[index] for index in members]
            point = self._column([draws[index] for index in members], torch.float64)
            if name == "all":
                picked[which] = self._invert(logits[which].softmax(-1), own, point)
                continue
            most = min(max(kept[index] for index in members), width)
            values, ids = logits[which].topk(most)
            limit = self._column([kept[index] for index in members], torch.int64)
            values = values.masked_fill(torch.arange(most, device=self._device) >= limit, -torch.inf)
            probabilities = values.softmax(-1)
            top_p = self._column([one.top_p if 0 < one.top_p < 1 else 2.0 for one in own], torch.float64)
            before = probabilities.cumsum(-1) - probabilities
            index_in = self._invert(probabilities.masked_fill(before > top_p, 0), own, point)
            picked[which] = ids.gather(-1, index_in[:, None])[:, 0]
        return picked

    def _invert(
        self, probabilities: torch.Tensor, params: Sequence[SamplingParams], point: torch.Tensor
    ) -> torch.Tensor:
        """Where in each row ``[B, K]`` the cumulative probabilities pass ``point`` ``[B, 1]`` of their sum."""
        if any(own.min_p for own in params):
            least = self._column([own.min_p for own in params], torch.float64)
            least = least * probabilities.amax(-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < least, 0)
        cumulative = probabilities.cumsum(-1)
        index = torch.searchsorted(cumulative, cumulative[:, -1:] * point, right=True)
        # Rounding can put the point beyond the last token: the last one with a probability is meant.
        count = torch.arange(probabilities.shape[-1], device=self._device)
        last = torch.where(probabilities > 0, count, 0).amax(-1, keepdim=True)
        return torch.minimum(index, last)[:, 0]

    def _note(self, tokens: torch.Tensor, rows: Sequence[int], params: Sequence[SamplingParams]) -> None:
        """Remember what was written, for penalties."""
        if self._seen is not None:
            members = [index for index, own in enumerate(params) if own.repetition_penalty != 1]
            self._seen[self._indices([rows[index] for index in members]), tokens[self._indices(members)]] = True
        if self._counts is not None:
            members = [index for index, own in enumerate(params) if own.frequency_penalty or own.presence_penalty]
            which = self._indices([rows[index] for index in members]), tokens[self._indices(members)]
            self._counts[which] += 1

    def _cleared(self, store: torch.Tensor | None, row: int, dtype: torch.dtype) -> torch.Tensor:
        if store is None:
            return torch.zeros((self._rows, self._vocab_size), dtype=dtype, device=self._device)
        store[row] = 0
        return store

    def _indices(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)

    def _column(self, values: Sequence[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype).to(self._device, non_blocking=True)[:, None]


def _is_adjusted(params: SamplingParams) -> bool:
    """Whether the scores are not the model's own."""
    return bool(
        params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty or params.logit_bias
    )
