"""The Python API under torchrun: every rank saves what it was given. Arguments: tp, pp, folder to save in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from neoxrun import LLM, SamplingParams

TEXTS = ["import os", "class Queue:", "", "# 日本語", "def read_file(path): return"]
PARAMS = SamplingParams(temperature=0.9, top_p=0.95, maximum_tokens=12, logprobs=1)


def plain(record: dict) -> dict:
    """What has to be the same at every split."""
    logprobs = [round(entry["logprob"], 3) for entry in record["logprobs"]]
    return {key: record[key] for key in ("id", "context", "text", "tokens", "finish_reason")} | {"l": logprobs}


def main() -> None:
    tp, pp, folder = sys.argv[1:]
    with LLM("demo", tp=int(tp), pp=int(pp), device="cpu", dtype="fp32", batch_size=3) as llm:
        for run in range(2):
            records = llm.generate(TEXTS, PARAMS)
            path = Path(folder) / f"run-{run}-rank-{os.environ['RANK']}.jsonl"
            path.write_text("".join(record.to_json() + "\n" for record in records))


if __name__ == "__main__":
    main()
