"""Speed of ``neoxrun score`` compared with that of ``neoxrun evaluate`` on the same whole texts, in turns.

    python benchmarks/score.py --shape pythia-14m

One process holds one model with random weights. In each round both sides get the same documents, which no round before
has had: ``evaluate`` their log-likelihoods as lm-eval asks for those of WikiText (``loglikelihood_rolling``), ``score``
the records of every token and word, written as JSON lines. Both score every token once, in the same windows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from decode import machine
from lm_eval.api.instance import Instance
from shapes import SHAPES

import neoxrun
from neoxrun.engine.allocator import keep_freed_memory
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.replicas import Replicas
from neoxrun.generation.lines import LineWriter
from neoxrun.input.source import Source
from neoxrun.model.dtypes import DTYPES
from neoxrun.scoring.documents import Document, DocumentSource
from neoxrun.scoring.options import LEVELS, ScoreOptions
from neoxrun.scoring.run import DocumentScorer
from neoxrun.serving.local import ModelArguments, open_local

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="pythia-14m", choices=SHAPES)
    parser.add_argument(
        "--text", type=Path, default=ROOT / "tests/parity/fixtures/shakespeare.txt", help="what to score"
    )
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "configs/demo/tokenizer.json")
    parser.add_argument("--letters", type=int, default=12_000, help="of a document; WikiText's have 10,000 on average")
    parser.add_argument("--documents", type=int, default=2, help="of each round (2)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (5)")
    parser.add_argument("--level", default="token", choices=LEVELS)
    parser.add_argument("--top", type=int, default=0, help="alternatives at each position (0)")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    session = open_local(
        ModelArguments(
            (args.shape,), tokenizer=str(args.tokenizer), device=args.device, dtype=args.dtype, random_weights=True
        ),
        started=False,
    )
    if args.device == "cpu":
        keep_freed_memory()  # as the ranks of the command do
    replicas = Replicas(session)
    context = session.max_context
    options = ScoreOptions(
        DocumentSource(Source("", None, b"", "txt")), args.documents, context, context, args.top, args.level, "", None
    )
    evaluate, score = NeoxLM(session, replicas), DocumentScorer(session, replicas, options)
    text = args.text.read_text(encoding="utf-8")
    rounds: list[tuple[int, dict[str, tuple[float, float]]]] = []
    for number in range(1 + args.rounds):
        texts = [
            # Other texts in every round, however short the file is.
            f"Round {number}, document {index}. " + _cut(text, (number * args.documents + index) * args.letters, args)
            for index in range(args.documents)
        ]
        requests = [Instance("loglikelihood_rolling", {}, (one,), 0) for one in texts]
        given = [Document(index, one, "") for index, one in enumerate(texts)]
        work = {
            "evaluate": partial(evaluate.loglikelihood_rolling, requests),
            "score": partial(_write_records, score, given),
        }
        results, taken = {}, {}
        for name in list(work)[:: 1 if number % 2 else -1]:  # in turns, which one begins as well
            start, cpu = time.perf_counter(), time.process_time()
            results[name] = work[name]()
            taken[name] = (time.perf_counter() - start, time.process_time() - cpu)
        tokens = sum(record["tokens"] for record in results["score"])
        pairs = zip(results["score"], results["evaluate"], strict=True)
        apart = max(abs(record["logprob"] - right) for record, right in pairs)
        rounds.append((tokens, taken))
    rounds = rounds[1:]
    print(
        f"{machine(torch.device(args.device))}; torch {torch.__version__}, {torch.get_num_threads()} threads; ", end=""
    )
    print(
        f"neoxrun {neoxrun.__version__}; {args.shape} {args.dtype}, {len(rounds)} rounds of about {tokens} tokens; ",
        end="",
    )
    print(f"sums at most {apart:.2g} apart in the last round")
    print("| side | tokens/s | tokens per second of the processor |\n|---|---|---|")
    for name in ("evaluate", "score"):
        wall, cpu = (statistics.median(count / taken[name][kind] for count, taken in rounds) for kind in (0, 1))
        print(f"| {name} | {wall:.0f} | {cpu:.0f} |")
    wall, cpu = (
        statistics.median(taken["evaluate"][kind] / taken["score"][kind] for _, taken in rounds) for kind in (0, 1)
    )
    print(f"| score / evaluate | **{wall:.2f}** | {cpu:.2f} |")


def _write_records(score: DocumentScorer, given: list[Document]) -> list[dict[str, Any]]:
    with tempfile.TemporaryFile("w") as file:
        writer = LineWriter(None, file, 0)
        records = []
        for record in score.records(given, lambda: False):
            writer.write_line(json.dumps(record, ensure_ascii=False))
            records.append(record)
    return records


def _cut(text: str, start: int, args: argparse.Namespace) -> str:
    start %= max(1, len(text) - args.letters)
    return text[start : start + args.letters]


if __name__ == "__main__":
    main()
