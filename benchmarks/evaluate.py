"""Scoring speed beside lm-eval's own ``hf`` model, on the same weights and requests, in turns in one process.

    python benchmarks/evaluate.py --tokenizer 20B_tokenizer.json --data-dir FOLDER

FOLDER is evaluate's data folder: LAMBADA (OpenAI's test set) and PIQA's validation set. Each round takes another draw
of their documents, in the proportion of the whole sets, for all sides; ``hf`` runs at each of ``--batches``, and its
best one counts. The floor is 2 operations per parameter and token at the rate of a large matrix product in the same
type, measured here: the layers' parameters for every token of the requests (a context once for each continuation, as
lm-eval asks for them), and the head's for every token that is asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decode import _machine
from shapes import SHAPES, make

import neoxrun
from neoxrun import llm
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.copies import Copies
from neoxrun.evaluation.data import prepare
from neoxrun.session import DTYPES

TASKS = {"lambada_openai": 5153, "piqa": 1838}


def main() -> None:
    """Measure, and print a row per side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer of GPT-NeoX-20B")
    parser.add_argument("--data-dir", type=Path, required=True, help="evaluate's data folder")
    parser.add_argument("--shape", default="pythia-160m", choices=SHAPES)
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64], help="of hf (1 4 16 64)")
    parser.add_argument("--documents", type=int, default=300, help="of both tasks together, each round (300)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(args.shape, Path(temporary) / "model", DTYPES[args.dtype])
        shutil.copy(args.tokenizer, folder / "tokenizer.json")
        sides = _sides(folder, args)
        ours = sides["neoxrun"]
        instances = _instances(args.data_dir)
        draw = random.Random(0)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        floors = []
        for round_ in range(1 + args.rounds):
            requests = _draw(instances, args.documents, draw)
            answers = {}
            for name, model in sides.items():
                start = time.perf_counter()
                answers[name] = model.loglikelihood(requests, disable_tqdm=True)
                if round_:
                    rates[name].append(len(requests) / (time.perf_counter() - start))
            apart = max(
                abs(a[0] - b[0]) for a, b in zip(answers["neoxrun"], answers[_hf(args.batches[0])], strict=True)
            )
            if round_:
                floors.append(len(requests) / _least_seconds(ours, requests, DTYPES[args.dtype], device))
    print(f"{_machine(device)}; torch {torch.__version__}, {torch.get_num_threads()} threads; neoxrun ", end="")
    print(
        f"{neoxrun.__version__}; {args.shape} {args.dtype}, {args.rounds} rounds of {len(requests)} requests; ", end=""
    )
    print(f"log-likelihoods at most {apart:.2g} apart in the last round")
    best = max((name for name in rates if name != "neoxrun"), key=lambda name: statistics.median(rates[name]))
    print("| side | requests/s | neoxrun / side | of the floor |\n|---|---|---|---|")
    floor = statistics.median(floors)
    for name, measured in rates.items():
        ratio = statistics.median(mine / other for mine, other in zip(rates["neoxrun"], measured, strict=True))
        marked = f"**{ratio:.2f}**" if name == best else f"{ratio:.2f}"
        print(f"| {name} | {statistics.median(measured):.1f} | {marked} | {statistics.median(measured) / floor:.0%} |")
    print(f"floor: {floor:.0f} requests/s")


def _hf(batch: int) -> str:
    return f"hf, batch {batch}"


def _sides(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = llm.LLM([args.shape, str(folder / "config.yml")], device=args.device, dtype=args.dtype)
    ours: dict[str, Any] = {"neoxrun": NeoxLM(model.session, Copies(model.session))}
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token=end, eos_token=end)
    network = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=DTYPES[args.dtype]).to(args.device).eval()
    return ours | {
        _hf(batch): HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch, device=args.device)
        for batch in args.batches
    }


def _instances(data_dir: Path) -> dict[str, list[list[Any]]]:
    """Per task, per document, its requests."""
    found = {}
    for name, task in prepare(list(TASKS), data_dir).task_dict["tasks"].items():
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests()
        documents: dict[int, list[Any]] = {}
        for instance in task.instances:
            documents.setdefault(instance.doc_id, []).append(instance)
        found[name] = list(documents.values())
    return found


def _draw(instances: dict[str, list[list[Any]]], count: int, draw: random.Random) -> list[Any]:
    whole = sum(TASKS.values())
    return [
        request
        for name, documents in instances.items()
        for document in draw.sample(documents, max(1, count * TASKS[name] // whole))
        for request in document
    ]


def _least_seconds(ours: NeoxLM, requests: list[Any], dtype: torch.dtype, device: torch.device) -> float:
    """What the operations alone take."""
    stage = ours._session.runner.stage
    layers = sum(parameter.numel() for parameter in stage.layers.parameters())
    head = stage.vocab_size * stage.config.hidden_size
    operations = 0
    for request in requests:
        context, continuation = ours._encode_pair(*request.args)
        operations += 2 * layers * (len(context) + len(continuation) - 1) + 2 * head * len(continuation)
    return operations / _rate(dtype, device)


def _rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of large matrices."""
    size = 2048 if device.type == "cpu" else 8192
    left = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (left @ left)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
