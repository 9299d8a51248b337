"""Carrying out instructions on one rank: forward through the stages, and sampling at the end of the last.

Shapes: ``B`` sequences, ``T`` new tokens, ``H`` hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from math import fsum

import torch

from neoxrun.config.limits import SCORED_ROWS
from neoxrun.engine.messages import Decode, Free, Instruction, Move, Prefill, Reserve, Score
from neoxrun.engine.sampler import Sampled, Sampler
from neoxrun.engine.scoring import Row, Scored, padded_width
from neoxrun.errors import RankError
from neoxrun.model.attention import AttentionContext, Rows
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.kv_cache import KVCache
from neoxrun.planning.memory import kv_cache_bytes


class Runner:
    """One rank's part of the work.

    Args:
        stage: this rank's share of the network, loaded.
        cache_bytes: most bytes that the key-value cache may take on this rank.
    """

    def __init__(self, stage: Stage, cache_bytes: int) -> None:
        self.stage = stage
        self.mesh = stage.mesh
        self.cache_bytes = cache_bytes
        self._cache: KVCache | None = None
        self._sampler = Sampler()

    @torch.inference_mode()
    def execute(self, instruction: Instruction) -> list[Sampled]:
        """Carry out one instruction.

        Returns:
            On the leader, for ``Prefill`` and ``Decode``, the next token of each sequence; else an empty list.
        """
        match instruction:
            case Prefill():
                return self._prefill(instruction)
            case Decode():
                return self._decode(instruction)
            case Move(source, target, length):
                self._held().move(source, target, length)
                if self.mesh.samples:
                    self._sampler.move(source, target)
            case Reserve(slots, length):
                self._reserve(slots, length)
            case Free():
                self._cache = None
            case Score(rows):
                self.score(rows)
        return []

    @property
    def holds_cache(self) -> bool:
        """Whether the cache takes memory."""
        return self._cache is not None

    @property
    def slots(self) -> int:
        """Sequences that the cache holds, the same on every rank of the replica."""
        return self._held().slots

    def prefill_hidden(self, prompts: torch.Tensor, first_slot: int) -> torch.Tensor:
        """Run whole sequences, ``[B, T]`` right-padded, through the stages: ``[B, T, H]`` on the last stage."""
        batch, tokens = prompts.shape
        positions = torch.arange(tokens, device=self.stage.device).expand(batch, tokens)
        context = AttentionContext(self._held(), first_slot, positions, tokens, mask=None, prefill=True)
        return self._forward(prompts, context)

    def decode_hidden(self, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run one token of each sequence in slots 0, 1, ... at its position: ``[B, 1, H]`` on the last stage."""
        device = self.stage.device
        ids = torch.tensor(tokens, device=device).unsqueeze(1)
        at = torch.tensor(positions, device=device).unsqueeze(1)
        length = max(positions) + 1
        mask = None
        if min(positions) + 1 < length:
            mask = (torch.arange(length, device=device) <= at)[:, None, None, :]
        context = AttentionContext(self._held(), 0, at, length, mask, prefill=False)
        return self._forward(ids, context)

    @torch.inference_mode()
    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The answers to all that the rows ask, on the leader; an empty list on the other ranks.

        Needs no cache, and leaves the one that there is as it is.
        """
        device = self.stage.device

        def line(lists: Iterable[list[int]]) -> torch.Tensor:
            return torch.tensor([value for one in lists for value in one], device=device)

        asked = [one for row in rows for one in row.asked]
        starts = list(accumulate((len(row.tokens) for row in rows), initial=0))
        wanted = line(
            [start + index for index in indices]
            for start, row in zip(starts, rows, strict=False)
            for indices, _ in row.asked
        )
        context = AttentionContext(
            None,
            0,
            positions=line(row.positions for row in rows).unsqueeze(0),
            length=starts[-1],
            mask=None,
            prefill=True,
            rows=self._padded(rows, starts),
            wanted=wanted,
        )
        x = self._forward(line(row.tokens for row in rows).unsqueeze(0), context)
        return self._answers(x, line(tokens for _, tokens in asked), [len(tokens) for _, tokens in asked])

    def _padded(self, rows: Sequence[Row], starts: Sequence[int]) -> Rows:
        """How attention sees rows that begin at the tokens ``starts``."""
        device = self.stage.device
        lengths = torch.tensor([len(row.tokens) for row in rows], device=device)
        columns = torch.arange(padded_width(rows), device=device)
        present = columns < lengths[:, None]
        padded = (torch.tensor(starts[:-1], device=device)[:, None] + columns).masked_fill(~present, 0)
        mask = None
        if any(min(row.ends) < len(row.tokens) for row in rows):
            ends = torch.full_like(padded, len(columns))  # padding sees itself: a softmax of nothing is not a number
            ends[present] = torch.tensor([end for row in rows for end in row.ends], device=device)
            mask = ((columns <= columns[:, None]) & (columns[:, None] < ends[:, None]))[:, None]
        return Rows(padded, present.flatten().nonzero()[:, 0], mask, self.stage.cache_dtype)

    def _answers(self, x: torch.Tensor, targets: torch.Tensor, counts: Sequence[int]) -> list[Scored]:
        """``x``: ``[1, P, H]``, output of the last stage's layers before each of the targets ``[P]``.

        A request has ``counts`` of them, one after the other.
        """
        logprobs: list[float] = []
        likeliest: list[bool] = []
        if self.mesh.last_stage:
            for first in range(0, len(targets), SCORED_ROWS):
                block = slice(first, first + SCORED_ROWS)
                scored = self.stage.scores(x[0, block], targets[block])
                if scored is not None:
                    logprobs += scored[0].tolist()
                    likeliest += scored[1].tolist()
        answers: list[Scored] = []
        if self.mesh.samples:
            values = iter(zip(logprobs, likeliest, strict=True))
            for count in counts:
                found = list(islice(values, count))
                answers.append(Scored(fsum(value for value, _ in found), all(best for _, best in found)))
        received: list[Scored] = self.mesh.sampler_to_leader(answers)
        return received if self.mesh.leads else []

    def _reserve(self, slots: int, length: int) -> None:
        config, mesh = self.stage.config, self.mesh
        heads, layers = config.num_attention_heads // mesh.tp, len(self.stage.layers)
        self._cache = None
        per_slot = kv_cache_bytes(
            config, layers=layers, tensor=mesh.tp, tokens=length, precision=self.stage.precisions.cache
        )
        slots = mesh.minimum(min(slots, self.cache_bytes // per_slot))
        if slots < 1:
            raise RankError(
                f"out of memory: the key-value cache of one sequence of {length} tokens takes "
                f"{per_slot / 1e9:.2f} GB on each device and {self.cache_bytes / 1e9:.2f} GB are free",
                code="out_of_memory",
                hint="Shorten the prompts or lower --maximum-tokens, or use more devices.",
            )
        self._cache = KVCache(layers, slots, heads, length, config.head_dim, self.stage.device, self.stage.cache_dtype)

    def _prefill(self, prefill: Prefill) -> list[Sampled]:
        lengths = [len(prompt) for prompt in prefill.prompts]
        longest = max(lengths)
        # Padding comes after a prompt, where causal attention keeps it out of the prompt's results.
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prefill.prompts]
        ids = torch.tensor(padded, device=self.stage.device)
        x = self.prefill_hidden(ids, prefill.first_slot)
        if self.mesh.samples:
            for row, (length, params) in enumerate(zip(lengths, prefill.params, strict=True)):
                self._sampler.admit(prefill.first_slot + row, ids[row, :length], params)
        last = torch.tensor(lengths, device=x.device) - 1
        return self._sample(x[torch.arange(len(last), device=x.device), last], prefill.first_slot)

    def _decode(self, decode: Decode) -> list[Sampled]:
        return self._sample(self.decode_hidden(decode.tokens, decode.positions)[:, 0], first_slot=0)

    def _forward(self, ids: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        received = None
        if not self.mesh.first_stage:
            shape = (*ids.shape, self.stage.config.hidden_size)
            received = self.mesh.receive_activations(shape, self.stage.compute_dtype)
        x: torch.Tensor = self.stage(ids, received, context)
        if not self.mesh.last_stage:
            self.mesh.send_activations(x)
        return x

    def _sample(self, x: torch.Tensor, first_slot: int) -> list[Sampled]:
        """``x``: ``[B, H]`` at the last token of each sequence."""
        sampled: list[Sampled] = []
        if self.mesh.last_stage:
            logits = self.stage.logits(x)
            if logits is not None:
                sampled = self._sampler.sample(logits, first_slot)
        received: list[Sampled] = self.mesh.sampler_to_leader(sampled)
        return received if self.mesh.leads else []

    def _held(self) -> KVCache:
        assert self._cache is not None, "Reserve comes before any other message"
        return self._cache
