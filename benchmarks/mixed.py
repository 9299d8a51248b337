"""Many prompts of different lengths on the CPU, compared with Hugging Face transformers, in turns in one process.

    python benchmarks/mixed.py --shape pythia-410m --prompts 64 --rounds 3

The prompts have 20 to 400 ids and get 8 to 256 new tokens each (``--scale 0.25``: a quarter of all that). transformers
gets them in padded batches, each computed until its longest answer is there; ``--batches`` gives the sizes to try, and
``--sort`` lets it have prompts of similar answers in one batch, which needs to know their lengths. For each it prints
the seconds and new tokens per second of both (medians of the rounds), and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from decode import machine
from shapes import SHAPES, make
from transformers import AutoModelForCausalLM

from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.allocator import keep_freed_memory
from neoxrun.engine.session import open_session
from neoxrun.model.dtypes import DTYPES
from neoxrun.parallel.mesh import single_rank_mesh

Work = list[tuple[list[int], int]]
"""Ids of each prompt, and how many new tokens it gets."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="pythia-410m", choices=SHAPES)
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--scale", type=float, default=1.0, help="of the lengths of prompts and answers (1)")
    parser.add_argument("--batches", nargs="+", type=int, default=[64], help="batch sizes for transformers (64)")
    parser.add_argument("--sort", action="store_true", help="transformers gets the prompts sorted by answer length")
    parser.add_argument("--attention", nargs="+", default=["sdpa"], choices=["sdpa", "eager"], help="of transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder to keep the model in (a temporary one)")
    args = parser.parse_args()
    keep_freed_memory()  # as the command does; transformers gains from it, too
    chance = random.Random(0)

    def scaled(low: int, high: int) -> int:
        return max(1, round(chance.randint(low, high) * args.scale))

    work = [([chance.randint(1, 255) for _ in range(scaled(20, 400))], scaled(8, 256)) for _ in range(args.prompts)]
    new = sum(count for _, count in work)
    print(f"{machine(torch.device('cpu'))}; torch {torch.__version__}; {args.shape} in {args.dtype}")
    print(f"{len(work)} prompts, {sum(len(ids) for ids, _ in work)} ids and {new} new tokens")
    print("| transformers | batch | neoxrun s | transformers s | neoxrun tok/s | transformers tok/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(args.shape, (args.keep or Path(temporary)) / f"{args.shape}-{args.dtype}", DTYPES[args.dtype])
        measured = _neoxrun(folder, args.shape, args.dtype, work)
        measured()
        for attention in args.attention:
            for batch in args.batches:
                ordered = sorted(work, key=lambda pair: pair[1]) if args.sort else work
                reference = _transformers(folder, args.dtype, attention, ordered, batch)
                pairs = [(measured(), reference()) for _ in range(args.rounds)]
                own, other = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
                ratio = statistics.median(theirs / ours for ours, theirs in pairs)
                cells = (attention, batch, f"{own:.1f}", f"{other:.1f}", f"{new / own:.0f}", f"{new / other:.0f}")
                print("|", *(f"{cell} |" for cell in cells), f"{ratio:.2f} |", flush=True)


def _neoxrun(folder: Path, shape: str, dtype: str, work: Work) -> Callable[[], float]:
    session = open_session(
        load_settings([shape, str(folder / "config.yml")]),
        single_rank_mesh(torch.device("cpu")),
        precisions_for(dtype, "cpu"),  # type: ignore[arg-type]
        random_weights=False,
        show_progress=False,
    )
    length = max(len(ids) + count for ids, count in work)

    def once() -> float:
        session.replica.free_cache()  # nothing of an earlier round is used again
        start = time.perf_counter()
        engine = session.start_engine(requests=len(work), length=length)
        for number, (ids, count) in enumerate(work):
            engine.add(number, ids, SamplingParams(maximum_tokens=count, ignore_eos=True))
        tokens = 0
        while events := engine.step():
            tokens += len(events)
        seconds = time.perf_counter() - start
        assert tokens == sum(count for _, count in work)
        engine.close()
        return seconds

    return once


def _transformers(folder: Path, dtype: str, attention: str, work: Work, batch: int) -> Callable[[], float]:
    model = AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=DTYPES[dtype], attn_implementation=attention
    ).eval()

    def once() -> float:
        start = time.perf_counter()
        for first in range(0, len(work), batch):
            part = work[first : first + batch]
            longest, most = max(len(ids) for ids, _ in part), max(count for _, count in part)
            ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _ in part])
            mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in part])
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=most,
                    min_new_tokens=most,
                    pad_token_id=0,
                )
        return time.perf_counter() - start

    return once


if __name__ == "__main__":
    main()
