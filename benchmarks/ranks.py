"""Tensor parallelism on the CPU: two ranks of one thread compared with one rank of two, in turns, by the command.

    python benchmarks/ranks.py --shape pythia-410m --batches 1 16 --rounds 3

The weights are random, in the command's default number format. For each batch size it prints the tokens per second of
both (medians of the rounds; the longest answer's own seconds count, so that start and load do not) and the median of
the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="pythia-410m")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each sequence (64)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| shape | batch | one rank tok/s | tp 2 tok/s | ratio |")
    print("|---|---|---|---|---|")
    for batch in args.batches:
        pairs = [tuple(_speed(args.shape, batch, args.tokens, tp) for tp in (1, 2)) for _ in range(args.rounds)]
        one, two = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(second / first for first, second in pairs)
        print(f"| {args.shape} | {batch} | {one:.1f} | {two:.1f} | {ratio:.2f} |", flush=True)


def _speed(shape: str, batch: int, tokens: int, tp: int) -> float:
    command = [
        *(sys.executable, "-m", "neoxrun", "generate", shape, "--device", "cpu", "--random-weights"),
        *("--tokenizer", DEMO / "tokenizer.json", "--set", "make_vocab_size_divisible_by=50304"),
        *("--tp", tp, "-n", batch, "-o", "-"),
        *("--prompt", "import os", "--temperature", 0, "--ignore-eos", "--maximum-tokens", tokens),
    ]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["length"] for record in records] == [tokens] * batch
    return batch * tokens / max(float(record["duration_seconds"]) for record in records)


if __name__ == "__main__":
    main()
