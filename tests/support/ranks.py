"""Small models on a split of ranks, and what they gave: in this process, or by torchrun running this file."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from neoxrun.checkpoint.adapter import open_adapter
from neoxrun.checkpoint.find import find_checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.config.precisions import precisions_for
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import Merge, ModelConfig, Precision
from neoxrun.engine import scheduler
from neoxrun.engine.messages import Reserve
from neoxrun.engine.replica import Replica
from neoxrun.engine.runner import Runner
from neoxrun.engine.scoring import Row, Scored, ScoreRequest, pack_rows
from neoxrun.engine.steps import Admission, Span, Step
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes
from neoxrun.parallel.mesh import Mesh
from support.paths import ROOT

DECODED = 3
"""Tokens at the end of each prompt that go through the cache one by one."""

SCORED_FROM = 2
"""The place in each prompt of the first token that is asked for when prompts are scored."""

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and prompts for it. Every prompt is longer than DECODED; ``adapter`` is a folder."""

    config: ModelConfig
    folder: Path
    prompts: list[list[int]]
    dtype: Precision = "fp32"
    merge: Merge = "fold"
    adapter: Path | None = None


@dataclasses.dataclass
class Answer:
    """Logits ``[T, V]`` of each prompt, and the greedy tokens after it.

    ``whole``: one prefill of all prompts together. ``cached``: the last tokens through the cache, all prompts
    together. ``alone``: the same, the first prompt by itself. ``batched_tokens`` and ``alone_tokens``: of the
    engine, for all prompts with fewer slots than prompts, and for the first prompt by itself. ``scored``: the sum of
    the log-probabilities of each prompt from its token SCORED_FROM on, to its end and to every place before, and
    whether all these tokens are the most likely; all computed together, and once more with others that branch off.
    ``interrupted_tokens``: as ``batched_tokens``, where all prompts are scored after every step of the engine.
    ``scored_between``: as ``scored_in_trees``, of each of these times.
    """

    whole: list[Tensor]
    cached: list[Tensor]
    alone: list[Tensor]
    batched_tokens: list[list[int]]
    alone_tokens: list[list[int]]
    scored: list[list[Scored]]
    scored_in_trees: list[list[Scored]]
    interrupted_tokens: list[list[int]]
    scored_between: list[list[list[Scored]]]


def new_tokens(prompt: int) -> int:
    """How many tokens the engine is asked for; different, so that slots fall free out of order."""
    return (2, 6, 5, 4)[prompt % 4]


def load_stage(case: Case, mesh: Mesh) -> Stage:
    checkpoint = find_checkpoint(case.folder, case.config)
    precisions = precisions_for(case.dtype, "cpu")
    stage = Stage(case.config, mesh, read_vocab_rows(checkpoint, case.config), mesh.device, precisions)
    load_weights(
        checkpoint,
        stage.targets(),
        stage.assign,
        config=case.config,
        tp_rank=mesh.tp_rank,
        tp_size=mesh.tp,
        device=mesh.device,
        dtype=stage.weights_dtype,
        merge=case.merge,
        adapter=None if case.adapter is None else open_adapter(case.adapter, case.config),
    )
    return stage


def teacher_forced(runner: Runner, prompts: list[list[int]]) -> list[Tensor]:
    """Logits ``[T, V]`` of each prompt on the sampling rank, the last DECODED ones from decode steps."""
    starts = [prompt[:-DECODED] for prompt in prompts]
    rows = prefilled(runner, starts)
    for step in range(DECODED):
        spans = [
            Span(row, len(start) + step, (prompt[len(start) + step],))
            for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True))
        ]
        rows = [torch.cat((row, new)) for row, new in zip(rows, _logits(runner, Step(spans)), strict=True)]
    return rows


def prefilled(runner: Runner, prompts: list[list[int]]) -> list[Tensor]:
    """Logits ``[T, V]`` of each prompt on the sampling rank, all from one step."""
    runner.execute(Reserve(len(prompts), 64))
    admitted = [Admission(row, prompt, 0, SamplingParams(), ()) for row, prompt in enumerate(prompts)]
    per_row = -(-64 // runner.page_size)
    spans = [
        Span(row, 0, tuple(prompt), tuple(range(row * per_row, (row + 1) * per_row)))
        for row, prompt in enumerate(prompts)
    ]
    return _logits(runner, Step(spans, admitted))


def _logits(runner: Runner, step: Step) -> list[Tensor]:
    """Logits of all tokens of each span, on the sampling rank."""
    assert runner.batcher is not None
    runner.batcher.take_pages(step)
    hidden = runner.run_stages(dataclasses.replace(runner.batcher.batch_of(step), outputs=None))
    scores = runner.stage.gather_logits(runner.stage.head(hidden)) if runner.mesh.last_stage else None
    if scores is None:
        return [torch.empty(0, 0)] * len(step.spans)
    return list(scores.split([span.count for span in step.spans]))


def run_engine(
    replica: Replica,
    prompts: list[list[int]],
    params: list[SamplingParams],
    *,
    slots: int,
    after_step: Callable[[], object] = lambda: None,
) -> list[list[int]]:
    """Tokens of each prompt on the leader."""
    if not replica.runner.mesh.leads:
        replica.follow()
        return []
    length = max(len(prompt) + own.maximum_tokens for prompt, own in zip(prompts, params, strict=True))
    engine = replica.start_engine(slots=slots, length=length, ends=())
    for number, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
        engine.add(number, prompt, own)
    tokens: list[list[int]] = [[] for _ in prompts]
    while events := engine.step():
        for event in events:
            tokens[event.request_id].append(event.sampled.token)
        after_step()
    engine.close()
    replica.release_followers()
    return tokens


@dataclasses.dataclass
class Scoring:
    """Every prompt's continuations of 1, 2, ... tokens after its first SCORED_FROM ones.

    With ``branching`` others branch off after each of them, so that a token that saw its neighbours would show.
    """

    prompts: list[list[int]]
    branching: bool

    def __post_init__(self) -> None:
        requests = [
            ScoreRequest(tuple(prompt[:SCORED_FROM]), tuple(prompt[SCORED_FROM:end]))
            for prompt in self.prompts
            for end in range(SCORED_FROM + 1, len(prompt) + 1)
        ]
        if self.branching:
            requests += [dataclasses.replace(one, continuation=(*one.continuation, 0, 1, 2)) for one in requests]
        self._packed = pack_rows(requests, budget=2 * max(map(len, self.prompts)))

    @property
    def rows(self) -> list[Row]:
        """All of them, for one pass."""
        return [row for row, _ in self._packed]

    def by_prompt(self, answers: list[Scored]) -> list[list[Scored]]:
        """The answers to ``rows``: per prompt, of its continuations; nothing on the ranks that get none."""
        if not answers:
            return []
        numbers = [number for _, answered in self._packed for number in answered]
        in_order = iter([answer for _, answer in sorted(zip(numbers, answers, strict=True), key=itemgetter(0))])
        return [list(islice(in_order, len(prompt) - SCORED_FROM)) for prompt in self.prompts]


@torch.inference_mode()
def run(case: Case, mesh: Mesh) -> Answer:
    runner = Runner(load_stage(case, mesh), cache_bytes=2**30)
    whole = prefilled(runner, case.prompts)
    cached = teacher_forced(runner, case.prompts)
    alone = teacher_forced(runner, case.prompts[:1])
    replica = Replica(runner)
    params = [SamplingParams(maximum_tokens=new_tokens(i)) for i in range(len(case.prompts))]
    slots = len(case.prompts) - 1
    batched_tokens = run_engine(replica, case.prompts, params, slots=slots)
    alone_tokens = run_engine(replica, case.prompts[:1], params[:1], slots=1)
    plain, trees = (Scoring(case.prompts, branching=branching) for branching in (False, True))
    scored = plain.by_prompt(runner.score(plain.rows))
    scored_in_trees = trees.by_prompt(runner.score(trees.rows))
    between: list[list[list[Scored]]] = []
    interrupted_tokens = run_engine(
        replica,
        case.prompts,
        params,
        slots=slots,
        after_step=lambda: between.append(trees.by_prompt(replica.score(trees.rows))),
    )
    mine = Answer(
        whole, cached, alone, batched_tokens, alone_tokens, scored, scored_in_trees, interrupted_tokens, between
    )
    answers = meshes.gather_from_all(mine)
    sampling = answers[mesh.rank_at(0, mesh.pp - 1)]
    return dataclasses.replace(answers[0], whole=sampling.whole, cached=sampling.cached, alone=sampling.alone)


def torchrun(*arguments: object, ranks: int) -> None:
    """Run a Python file of the tests on ``ranks`` ranks."""
    path = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"),
            *map(str, arguments),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)},
        check=True,
        timeout=240,
    )


def end_rank() -> NoReturn:
    """End a process whose work as a rank is done, as ``launch.start`` does: at a plain end gloo may abort it."""
    meshes.disconnect_ranks()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run_on_split(cases: dict[str, Case], tp: int, pp: int, folder: Path) -> dict[str, Answer]:
    """What the cases give at ``tp`` x ``pp``; one start of the ranks for all."""
    if tp * pp == 1:
        return {name: run(case, meshes.single_rank_mesh(CPU)) for name, case in cases.items()}
    asked, given = folder / "cases.pt", folder / f"answers-{tp}x{pp}.pt"
    torch.save(cases, asked)
    torchrun(__file__, tp, pp, asked, given, ranks=tp * pp)
    answers: dict[str, Answer] = torch.load(given, weights_only=False)
    return answers


def main() -> None:
    tp, pp, asked, given = sys.argv[1:]
    mesh = meshes.connect_ranks(int(tp), int(pp), 1, CPU)
    scheduler.LEAST_GROUP = 1  # so that few sequences are divided over pipeline stages, too
    cases = torch.load(asked, weights_only=False)
    answers = {name: run(case, mesh) for name, case in cases.items()}
    if mesh.rank == 0:
        torch.save(answers, given)
    end_rank()


if __name__ == "__main__":
    # Under its own name, so that the saved cases and answers are of the classes that the tests know.
    from support.ranks import main as run_rank

    run_rank()
