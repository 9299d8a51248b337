"""Carrying out instructions on one rank: forward through the stages, and sampling at the end of the last.

Shapes: ``T`` tokens, ``P`` outputs, ``H`` hidden, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import fsum
from typing import Any

import torch

from neoxrun.config.limits import SCORED_ROWS
from neoxrun.engine.batches import Batcher
from neoxrun.engine.graphs import DecodeGraphs
from neoxrun.engine.messages import TOKENS, FreeCache, Instruction, ReleaseFollowers, Reserve, Score
from neoxrun.engine.sampler import Choice, Sampled, Sampler
from neoxrun.engine.scoring import Row, Scored, TokenScores, padded_width
from neoxrun.engine.steps import Step
from neoxrun.errors import RankError
from neoxrun.model.batch import Batch
from neoxrun.model.dtypes import device_kind
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.kernels import triton_kernels
from neoxrun.model.kv_cache import KVCache
from neoxrun.model.tree import TreeAttention
from neoxrun.parallel.mail import Mail
from neoxrun.planning.memory import MAX_BATCH, kv_cache_bytes, paging_of

_BLOCK = 16  # positions: copying fewer takes as long as computing them


@dataclass(frozen=True)
class Launched:
    """A step whose tokens are on their way.

    Attributes:
        choice: on the sampling rank, what it chooses; None elsewhere.
        receive: on the leader of several stages, waits for the tokens that the sampling rank sends.
    """

    choice: Choice | None
    receive: Callable[[], list[Sampled]] | None = None

    def read(self) -> list[Sampled]:
        """On the leader, the tokens of the sampled spans, in their order. Waits for them."""
        if self.receive is not None:
            return self.receive()
        return [] if self.choice is None else self.choice.read()


class Runner:
    """One rank's part of the work.

    Args:
        stage: this rank's share of the network, loaded.
        cache_bytes: most bytes that the key-value cache may take on this rank.
        eager: capture no graphs.
        page_size: positions of a page of the cache; None: 32 on a GPU, and on the CPU as long as a sequence may be.
        ahead: steps that may be under way while the next one is planned; None: as many as there are later pipeline
            stages, and without stages 1 on a GPU and 0 on the CPU.

    Attributes:
        cache: keys and values; None until they are needed.
        batcher: makes batches of steps; None until the cache is there.
        rows: most sequences at a time.
        pages: of the cache, for sequences.
        block: positions that sequences share, see ``Pages``.
        caches: how many caches there have been.
        ahead: steps that may be under way while the next one is planned.
    """

    def __init__(
        self,
        stage: Stage,
        cache_bytes: int,
        *,
        eager: bool = False,
        page_size: int | None = None,
        ahead: int | None = None,
    ) -> None:
        self.stage = stage
        self.mesh = stage.mesh
        self.cache_bytes = cache_bytes
        self.rows = self.pages = self.block = self.caches = 0
        self._reserved = Reserve(0, 0)
        self._eager, self._page_size = eager, page_size
        on_gpu = stage.device.type == "cuda"
        usual = stage.mesh.pp - 1 if stage.mesh.pp > 1 else int(on_gpu)
        self.ahead = usual if ahead is None else ahead
        self._tokens: Mail | None = None
        if stage.mesh.pp > 1:
            assert stage.mesh.replica_group is not None
            self._tokens = Mail(stage.mesh.replica_group, TOKENS, most=4 * (self.ahead + 1))
        self.cache: KVCache | None = None
        self.batcher: Batcher | None = None
        self._sampler: Sampler | None = None
        self._graphs: DecodeGraphs | None = None

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.stage.device

    @property
    def page_size(self) -> int:
        """Positions of a page."""
        assert self.cache is not None, "Reserve comes first"
        return self.cache.page_size

    @torch.inference_mode()
    def execute(self, instruction: Instruction) -> Launched | None:
        """Carry out one instruction.

        Returns:
            For a step, what is to be read of it.
        """
        match instruction:
            case Step():
                return self._run(instruction)
            case Reserve(rows, length):
                self._reserve(rows, length)
                if self._graphs is not None and self.batcher is not None:  # so that no step waits for its capture
                    self._graphs.capture(min(rows, self.rows), partial(self.batcher.pack_singles, []))
            case Score(rows, top):
                self.score(rows, top)
            case FreeCache():
                self.close()
            case ReleaseFollowers():
                pass
        return None

    @torch.inference_mode()
    def score(self, rows: Sequence[Row], top: int | None = None) -> list[Scored]:
        """The answers to all that the rows ask, on the leader; an empty list on the other ranks.

        Needs no cache, and leaves the one that there is as it is. See ``Replica.score`` for ``top``.
        """

        def line(lists: Iterable[list[int]]) -> torch.Tensor:
            return torch.tensor([value for one in lists for value in one], device=self.device)

        self.stage.pack()
        asked = [one for row in rows for one in row.asked]
        starts = list(accumulate((len(row.tokens) for row in rows), initial=0))
        wanted = line(
            [start + index for index in indices]
            for start, row in zip(starts, rows, strict=False)
            for indices, _ in row.asked
        )
        positions = line(row.positions for row in rows)
        attention = self._tree(rows, starts, positions)
        x = self.run_stages(Batch(line(row.tokens for row in rows), positions, attention, wanted))
        return self._answers(x, line(tokens for _, tokens in asked), [len(tokens) for _, tokens in asked], top)

    def close(self) -> None:
        """Give the cache's memory back, and the graphs, which must go before the process groups."""
        self.cache = self.batcher = self._sampler = self._graphs = None
        self.rows = self.pages = 0

    def _run(self, step: Step) -> Launched:
        assert self.batcher is not None, "Reserve comes first"
        self.batcher.take_pages(step)
        if self._sampler is not None:
            for admission in step.admitted:
                self._sampler.admit(admission.row, admission.prompt, admission.written, admission.params)
        logits = self._logits(step)
        sampled = [span for span in step.spans if span.sampled]
        if not sampled:
            return Launched(None)
        rows = [span.row for span in sampled]
        choice = None
        if self._sampler is not None:
            assert logits is not None
            choice = self._sampler.choose(logits, rows, [span.draw for span in sampled])
        if (mail := self._tokens) is not None:
            leader, sampling = self.mesh.rank_at(0, 0), self.mesh.rank_at(0, self.mesh.pp - 1)
            if choice is not None:
                mail.send(choice.read(), [leader])
            return Launched(None, lambda: mail.receive(sampling))
        if self.ahead:
            tokens = (
                choice.tokens if choice is not None else torch.empty(len(rows), dtype=torch.int64, device=self.device)
            )
            self.batcher.note(rows, self.mesh.broadcast_tokens(tokens))
        return Launched(choice)

    def _logits(self, step: Step) -> torch.Tensor | None:
        """fp32 ``[P, V]`` of the sampled spans, on the sampling rank."""
        assert self.batcher is not None
        if self._graphs is not None and all(span.count == 1 and span.sampled for span in step.spans):
            size = self._graphs.size_for(len(step.spans))
            if size is not None:
                local = self._graphs.replay(self.batcher.pack_singles(step.spans, size))[: len(step.spans)]
                return self.stage.gather_logits(local)
        x = self.run_stages(self.batcher.batch_of(step))
        if not self.mesh.last_stage or not len(x):
            return None
        return self.stage.gather_logits(self.stage.head(x))

    def _reserve(self, rows: int, length: int) -> None:
        """Allocate the cache, unless the one that there is does.

        On a GPU it takes all the memory that there is for it, once. On the CPU each row has a page of ``length``.

        Raises:
            RankError: one sequence of ``length`` tokens does not fit; on all ranks, since they agree on the pages.
        """
        stage, mesh = self.stage, self.mesh
        on_gpu = self.device.type == "cuda"
        if self.cache is not None and self._reserved.rows >= rows and self._reserved.length >= length:
            return
        self.close()
        wanted = length
        if rows > 1:
            stage.pack()
        if on_gpu:
            rows, length = max(rows, MAX_BATCH["cuda"]), max(length, stage.config.max_context)
        paging = paging_of(device_kind(self.device), length, self._page_size)
        page, layers = paging.size, len(stage.layers)
        token_bytes = kv_cache_bytes(
            stage.config, layers=layers, tensor=mesh.tp, tokens=1, precision=stage.precisions.cache
        )
        pages = mesh.minimum(min(rows * paging.pages_of(length), paging.pages_in(self.cache_bytes, token_bytes)))
        if pages < paging.pages_of(wanted):
            needed = token_bytes * paging.positions(paging.pages_of(wanted))
            raise RankError(
                f"out of memory: the key-value cache of one sequence of {wanted} tokens takes "
                f"{needed / 1e9:.2f} GB on each device and {self.cache_bytes / 1e9:.2f} GB are free",
                code="out_of_memory",
                hint="Shorten the prompts or lower --maximum-tokens, or use more devices.",
            )
        self.rows, self.pages, self.caches = min(rows, pages), pages, self.caches + 1
        self._reserved = Reserve(rows, min(length, pages * page))
        self.block = min(_BLOCK, page) if page >= length and not on_gpu else page
        heads = stage.config.num_attention_heads // mesh.tp
        self.cache = KVCache(
            layers, pages + paging.spare, heads, page, stage.config.head_dim, self.device, stage.cache_dtype
        )
        self.batcher = Batcher(self.cache, stage.rotary, self.rows, length, self.device)
        if mesh.samples:
            self._sampler = Sampler(self.rows, stage.vocab_size, self.device)
        if triton_kernels(self.device) is not None and mesh.pp == 1 and not self._eager:
            self._graphs = DecodeGraphs(self._decode, self.batcher.packed_width, self.rows, self.device)

    def _decode(self, packed: torch.Tensor) -> torch.Tensor:
        """One token of each of several sequences: this rank's part of the logits, ``[B, V / tp]``."""
        assert self.batcher is not None
        return self.stage.head(self.stage(self.batcher.batch_of_singles(packed)))

    def run_stages(self, batch: Batch) -> torch.Tensor:
        """Run a batch through the stages: ``[P, H]`` on the last one, ``[T, H]`` on the others."""
        received = None
        if not self.mesh.first_stage:
            shape = (len(batch.ids), self.stage.config.hidden_size)
            received = self.mesh.receive_activations(shape, self.stage.compute_dtype)
        x: torch.Tensor = self.stage(batch, received)
        if not self.mesh.last_stage:
            self.mesh.send_activations(x)
        return x

    def _tree(self, rows: Sequence[Row], starts: Sequence[int], positions: torch.Tensor) -> TreeAttention:
        """Attention within rows that begin at the tokens ``starts``."""
        lengths = torch.tensor([len(row.tokens) for row in rows], device=self.device)
        columns = torch.arange(padded_width(rows), device=self.device)
        present = columns < lengths[:, None]
        padded = (torch.tensor(starts[:-1], device=self.device)[:, None] + columns).masked_fill(~present, 0)
        mask = None
        if any(min(row.ends) < len(row.tokens) for row in rows):
            ends = torch.full_like(padded, len(columns))  # padding sees itself: a softmax of nothing is not a number
            ends[present] = torch.tensor([end for row in rows for end in row.ends], device=self.device)
            mask = ((columns <= columns[:, None]) & (columns[:, None] < ends[:, None]))[:, None]
        line = present.flatten().nonzero()[:, 0]
        return TreeAttention(padded, line, mask, self.stage.rotary, positions, self.stage.cache_dtype)

    def _answers(self, x: torch.Tensor, targets: torch.Tensor, counts: Sequence[int], top: int | None) -> list[Scored]:
        """``x``: ``[P, H]``, output of the last stage before each of the targets ``[P]``.

        A request has ``counts`` of them, one after the other.
        """
        found: tuple[list[Any], ...] = ([], [], [], [])  # as ``Stage.scores`` returns them
        if self.mesh.last_stage:
            for first in range(0, len(targets), SCORED_ROWS):
                block = slice(first, first + SCORED_ROWS)
                scored = self.stage.scores(x[block], targets[block], top or 0)
                for values, more in zip(found, (scored or ())[: 4 if top else 2], strict=False):
                    values += more.tolist()
        answers: list[Scored] = []
        if self.mesh.samples:
            for end, count in zip(accumulate(counts), counts, strict=True):
                logprobs, best, ids, values = (one[end - count : end] for one in found)
                tokens = None if top is None else TokenScores(logprobs, ids, values)
                answers.append(Scored(fsum(logprobs), all(best), tokens))
        received: list[Scored] = self.mesh.sampler_to_leader(answers)
        return received if self.mesh.leads else []
