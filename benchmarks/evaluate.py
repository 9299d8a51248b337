"""Scoring speed compared with lm-eval's ``hf`` model, on the same weights and requests, in turns.

    python benchmarks/evaluate.py --tokenizer 20B_tokenizer.json --data-dir FOLDER

FOLDER is the data folder of ``neoxrun evaluate`` with LAMBADA (OpenAI's test set) and PIQA's validation set. Each side
is a separate process, and the others wait while one works. Each round draws other documents, in the proportion of the
whole sets and the same for all sides. ``hf`` runs at each of ``--batches``, and its best result counts. The floor is 2
operations per parameter and token at the rate of a large matrix product in the same type, measured in each round: the
layers' parameters for every token of the requests (a context again for each of its continuations, as in lm-eval's
requests), and the head's for every token that is scored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decode import machine
from shapes import SHAPES, VOCABULARY, make

import neoxrun
from neoxrun.config.reader import load_settings
from neoxrun.config.tensors import FIRST_LAYER, local_counts
from neoxrun.engine.allocator import keep_freed_memory
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.data import prepare_tasks
from neoxrun.evaluation.replicas import Replicas
from neoxrun.model.dtypes import DTYPES
from neoxrun.serving.local import ModelArguments, open_local

TASKS = {"lambada_openai": 5153, "piqa": 1838}
NEOXRUN = "neoxrun"


def main() -> None:
    """Measure, and print a row per side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer of GPT-NeoX-20B")
    parser.add_argument("--data-dir", type=Path, required=True, help="evaluate's data folder")
    parser.add_argument("--shape", default="pythia-160m", choices=SHAPES)
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64], help="of hf (1 4 16 64)")
    parser.add_argument("--documents", type=int, default=300, help="of both tasks together, each round (300)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    # For the processes that this program starts: the batch size of hf, or 0 for neoxrun.
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        _work(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(args.shape, Path(temporary) / "model", DTYPES[args.dtype])
        shutil.copy(args.tokenizer, folder / "tokenizer.json")
        sides = {NEOXRUN if not batch else f"hf, batch {batch}": _Side(batch, folder) for batch in (0, *args.batches)}
        rounds = []
        for number in range(1 + args.rounds):
            floor = _rate(DTYPES[args.dtype], torch.device(args.device))
            rounds.append((floor, {name: side.round(number) for name, side in sides.items()}))
            seconds = ", ".join(f"{name} {answer['seconds']:.1f} s" for name, answer in rounds[-1][1].items())
            print(f"round {number}: {seconds}", file=sys.stderr)
        for side in sides.values():
            side.end()
    _report(args, rounds[1:])


class _Side:
    """One of the processes that take turns."""

    def __init__(self, batch: int, model: Path) -> None:
        command = [sys.executable, *sys.argv, "--side", str(batch), "--model", str(model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._receive() == "ready"

    def round(self, number: int) -> dict[str, Any]:
        """Let it score the draw of round ``number``: seconds, operations and log-likelihoods."""
        assert self._process.stdin is not None
        print(number, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = self._receive()
        return answer

    def end(self) -> None:
        """Wait until it has ended."""
        self._process.communicate()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer: "):
                return json.loads(line.removeprefix("answer: "))
        raise SystemExit("a side has ended early; its messages are above")


def _work(args: argparse.Namespace) -> None:
    """One side: score the draw of each round whose number arrives on stdin."""
    model = _hf_model(args) if args.side else _neoxrun_model(args)
    instances = _instances(args.data_dir)
    print('answer: "ready"', flush=True)
    for line in sys.stdin:
        requests = _draw(instances, args.documents, random.Random(int(line)))
        start = time.perf_counter()
        answers = model.loglikelihood(requests, disable_tqdm=True)
        seconds = time.perf_counter() - start
        scores = [logprob for logprob, _ in answers]
        answer = {"seconds": seconds, "operations": _operations(args, model, requests), "scores": scores}
        print("answer:", json.dumps(answer), flush=True)


def _neoxrun_model(args: argparse.Namespace) -> NeoxLM:
    sources = (args.shape, str(args.model / "config.yml"))
    session = open_local(ModelArguments(sources, device=args.device, dtype=args.dtype), started=False)
    if args.device == "cpu":
        keep_freed_memory()  # as the ranks of the command do
    return NeoxLM(session, Replicas(session))


def _hf_model(args: argparse.Namespace) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(args.model / "tokenizer.json"), bos_token=end, eos_token=end)
    network = AutoModelForCausalLM.from_pretrained(args.model / "hf", dtype=DTYPES[args.dtype]).to(args.device).eval()
    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=args.side, device=args.device)


def _report(args: argparse.Namespace, rounds: list[tuple[float, dict[str, dict[str, Any]]]]) -> None:
    names = list(rounds[0][1])
    count = len(rounds[0][1][NEOXRUN]["scores"])
    last = [rounds[-1][1][name]["scores"] for name in names[:2]]
    apart = max(abs(score - other) for score, other in zip(*last, strict=True))
    print(
        f"{machine(torch.device(args.device))}; torch {torch.__version__}, {torch.get_num_threads()} threads; ", end=""
    )
    print(
        f"neoxrun {neoxrun.__version__}; {args.shape} {args.dtype}, {len(rounds)} rounds of {count} requests; ", end=""
    )
    print(f"log-likelihoods at most {apart:.2g} apart in the last round")
    speed = {name: statistics.median(len(r[name]["scores"]) / r[name]["seconds"] for _, r in rounds) for name in names}
    best = max(names[1:], key=speed.__getitem__)
    print("| side | requests/s | neoxrun / side | of the floor |\n|---|---|---|---|")
    for name in names:
        ratio = statistics.median(r[name]["seconds"] / r[NEOXRUN]["seconds"] for _, r in rounds)
        share = statistics.median(r[name]["operations"] / rate / r[name]["seconds"] for rate, r in rounds)
        marked = f"**{ratio:.2f}**" if name == best else f"{ratio:.2f}"
        print(f"| {name} | {speed[name]:.1f} | {marked} | {share:.0%} |")
    print(f"matrix products: {statistics.median(rate for rate, _ in rounds) / 1e9:.0f} GFLOP/s")


def _instances(data_dir: Path) -> dict[str, list[list[Any]]]:
    """The requests of each document of each task."""
    found = {}
    for name, task in prepare_tasks(list(TASKS), data_dir).task_dict["tasks"].items():
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


def _operations(args: argparse.Namespace, model: Any, requests: list[Any]) -> int:
    """Operations of the network for the requests, each computed by itself."""
    network = load_settings([args.shape]).model
    counts = local_counts(network, VOCABULARY, 1)
    numbers = range(FIRST_LAYER, FIRST_LAYER + network.num_layers)
    layers = sum(count for key, count in counts.items() if key.layer in numbers)
    head = VOCABULARY * network.hidden_size
    total = 0
    for request in requests:
        context, continuation = model._encode_pair(*request.args)
        total += 2 * layers * (len(context) + len(continuation) - 1) + 2 * head * len(continuation)
    return total


def _rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a product of large matrices."""
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
