"""Small models on a split of ranks, and what they gave: in this process, or by torchrun running this file."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from itertools import islice
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from neoxrun.checkpoint.layout import find
from neoxrun.checkpoint.load import load, vocab_rows
from neoxrun.config.precisions import precisions_for
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.engine.engine import Engine, follow
from neoxrun.engine.messages import Reserve
from neoxrun.engine.runner import Runner
from neoxrun.engine.scoring import Scored, ScoreRequest, pack
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
    """A model and prompts for it. Every prompt is longer than DECODED."""

    config: ModelConfig
    folder: Path
    prompts: list[list[int]]
    dtype: Precision = "fp32"


@dataclasses.dataclass
class Answer:
    """Logits ``[T, V]`` of each prompt, and the greedy tokens after it.

    ``whole``: one prefill of all prompts together. ``cached``: the last tokens through the cache, all prompts
    together. ``alone``: the same, the first prompt by itself. ``batched_tokens`` and ``alone_tokens``: of the
    engine, for all prompts with fewer slots than prompts, and for the first prompt by itself. ``scored``: the sum of
    the log-probabilities of each prompt from its token SCORED_FROM on, to its end and to every place before, and
    whether all these tokens are the likeliest; all computed together, and once more with others that branch off.
    """

    whole: list[Tensor]
    cached: list[Tensor]
    alone: list[Tensor]
    batched_tokens: list[list[int]]
    alone_tokens: list[list[int]]
    scored: list[list[Scored]]
    scored_in_trees: list[list[Scored]]


def new_tokens(prompt: int) -> int:
    """How many tokens the engine is asked for; different, so that slots fall free out of order."""
    return (2, 6, 5, 4)[prompt % 4]


def load_stage(case: Case, mesh: Mesh) -> Stage:
    checkpoint = find(case.folder, case.config)
    precisions = precisions_for(case.dtype, "cpu")
    stage = Stage(case.config, mesh, vocab_rows(checkpoint, case.config), mesh.device, precisions)
    load(
        checkpoint,
        stage.targets(),
        stage.assign,
        config=case.config,
        tp_rank=mesh.tp_rank,
        tp_size=mesh.tp,
        device=mesh.device,
        dtype=stage.weights_dtype,
    )
    return stage


def _teacher_forced(runner: Runner, prompts: list[list[int]]) -> list[Tensor]:
    """Logits ``[T, V]`` of each prompt on the sampling rank, the last DECODED ones from decode steps."""
    runner.execute(Reserve(len(prompts), max(map(len, prompts))))
    starts = [prompt[:-DECODED] for prompt in prompts]
    rows = _prefilled(runner, starts)
    for step in range(DECODED):
        places = [len(start) + step for start in starts]
        tokens = [prompt[place] for prompt, place in zip(prompts, places, strict=True)]
        hidden = runner.decode_hidden(tokens, places)
        rows = [torch.cat((row, new)) for row, new in zip(rows, _logits(runner, hidden, len(rows)), strict=True)]
    return rows


def _prefilled(runner: Runner, prompts: list[list[int]]) -> list[Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    rows = _logits(runner, runner.prefill_hidden(ids, 0), len(prompts))
    return [row[: len(prompt)] for row, prompt in zip(rows, prompts, strict=True)]


def _logits(runner: Runner, hidden: Tensor, count: int) -> list[Tensor]:
    scores = runner.stage.logits(hidden) if runner.mesh.last_stage else None
    return [torch.empty(0, 0)] * count if scores is None else list(scores)


def run_engine(
    runner: Runner, prompts: list[list[int]], params: list[SamplingParams], *, slots: int
) -> list[list[int]]:
    """Tokens of each prompt on the leader."""
    if not runner.mesh.leads:
        follow(runner)
        return []
    length = max(len(prompt) + own.maximum_tokens for prompt, own in zip(prompts, params, strict=True))
    engine = Engine(runner, slots=slots, length=length, eos=None)
    for number, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
        engine.add(number, prompt, own)
    tokens: list[list[int]] = [[] for _ in prompts]
    while events := engine.step():
        for event in events:
            tokens[event.request_id].append(event.sampled.token)
    engine.close()
    return tokens


def _scored(runner: Runner, prompts: list[list[int]], *, branching: bool) -> list[list[Scored]]:
    """Answers on the leader: per prompt, for its continuations of 1, 2, ... tokens.

    With ``branching`` others branch off after each of them, so that a token that saw its neighbours would show.
    """
    requests = [
        ScoreRequest(tuple(prompt[:SCORED_FROM]), tuple(prompt[SCORED_FROM:end]))
        for prompt in prompts
        for end in range(SCORED_FROM + 1, len(prompt) + 1)
    ]
    asked = list(requests)
    if branching:
        asked += [dataclasses.replace(one, continuation=(*one.continuation, 0, 1, 2)) for one in requests]
    rows = pack(asked, budget=2 * max(map(len, prompts)))
    answers = runner.score([row for row, _ in rows])
    if not runner.mesh.leads:
        return []
    numbers = [number for _, answered in rows for number in answered]
    in_order = iter([answer for _, answer in sorted(zip(numbers, answers, strict=True), key=itemgetter(0))])
    return [list(islice(in_order, len(prompt) - SCORED_FROM)) for prompt in prompts]


@torch.inference_mode()
def run(case: Case, mesh: Mesh) -> Answer:
    runner = Runner(load_stage(case, mesh), cache_bytes=2**30)
    runner.execute(Reserve(len(case.prompts), max(map(len, case.prompts))))
    whole = _prefilled(runner, case.prompts)
    cached = _teacher_forced(runner, case.prompts)
    alone = _teacher_forced(runner, case.prompts[:1])
    params = [SamplingParams(maximum_tokens=new_tokens(i)) for i in range(len(case.prompts))]
    batched_tokens = run_engine(runner, case.prompts, params, slots=len(case.prompts) - 1)
    alone_tokens = run_engine(runner, case.prompts[:1], params[:1], slots=1)
    scored = _scored(runner, case.prompts, branching=False)
    scored_in_trees = _scored(runner, case.prompts, branching=True)
    mine = Answer(whole, cached, alone, batched_tokens, alone_tokens, scored, scored_in_trees)
    answers = meshes.gather_from_all(mine)
    return dataclasses.replace(
        answers[mesh.rank_at(0, mesh.pp - 1)],
        batched_tokens=answers[0].batched_tokens,
        alone_tokens=answers[0].alone_tokens,
        scored=answers[0].scored,
        scored_in_trees=answers[0].scored_in_trees,
    )


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


def answers_of(cases: dict[str, Case], tp: int, pp: int, folder: Path) -> dict[str, Answer]:
    """What the cases give at ``tp`` x ``pp``; one start of the ranks for all."""
    if tp * pp == 1:
        return {name: run(case, meshes.single(CPU)) for name, case in cases.items()}
    asked, given = folder / "cases.pt", folder / f"answers-{tp}x{pp}.pt"
    torch.save(cases, asked)
    torchrun(__file__, tp, pp, asked, given, ranks=tp * pp)
    answers: dict[str, Answer] = torch.load(given, weights_only=False)
    return answers


def main() -> None:
    tp, pp, asked, given = sys.argv[1:]
    mesh = meshes.connect(int(tp), int(pp), 1, CPU)
    cases = torch.load(asked, weights_only=False)
    answers = {name: run(case, mesh) for name, case in cases.items()}
    if mesh.rank == 0:
        torch.save(answers, given)
    meshes.disconnect()


if __name__ == "__main__":
    # Under its own name, so that the saved cases and answers are of the classes that the tests know.
    from support.ranks import main as run_rank

    run_rank()
