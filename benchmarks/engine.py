"""What the engine gives on GPUs, with random weights: decoding at several batch sizes, prefill, and a mixed set.

    python benchmarks/engine.py 20B
    torchrun --nproc-per-node 2 benchmarks/engine.py 20B     # tensor parallel 2

Prompts are random ids, answers greedy. Decode: prompts of 32 ids; the time of the first step, which reads the prompts,
is left out. Prefill: 16 prompts of 1,024 ids, one token each. Mixed: 256 prompts of 20 to 400 ids with 8 to 256 new
tokens. The floor of a decode step is the bytes of the weights that it reads over the bandwidth of a large copy.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator

import torch

import neoxrun
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.engine import Engine
from neoxrun.engine.replica import Replica
from neoxrun.engine.runner import Runner
from neoxrun.model.gpt_neox import Stage
from neoxrun.parallel import mesh as meshes

VOCABULARY = 50277  # of GPT-NeoX-20B's tokenizer
SPARE_BYTES = 3.5e9  # of a GPU's memory, left for activations and graphs
IDS = iter(range(10**9))


def main() -> None:
    """Measure, and print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a shipped configuration")
    parser.add_argument("--dtype", default="fp16", choices=("fp16", "bf16"))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of each sequence when decoding (96)")
    args = parser.parse_args()
    tp = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    mesh = meshes.connect_ranks(tp, 1, 1, device)
    model = load_settings([args.model]).model
    vocab_size = model.padded_vocab_size(VOCABULARY)
    stage = Stage(model, mesh, vocab_size, device, precisions_for(args.dtype, "cuda"))
    stage.randomize(seed=1)
    runner = Runner(stage, int(torch.cuda.mem_get_info(device)[0] - SPARE_BYTES))
    replica = Replica(runner)
    if mesh.leads:
        # A decode step reads every parameter but the embedding, of which it reads a row for each token.
        read = sum(parameter.nbytes for name, parameter in stage.named_parameters() if "word_embeddings" not in name)
        floor = read / _bandwidth(device)
        print(f"{args.model}, tp {tp}, {torch.cuda.get_device_name(device)}, torch {torch.__version__}, ", end="")
        print(f"neoxrun {neoxrun.__version__}; {floor * 1e3:.2f} ms a step to read {read / 1e9:.1f} GB")
        _measure(replica, model.max_context, args.batches, args.tokens, floor)
        replica.release_followers()
    else:
        replica.follow()
    runner.close()
    meshes.disconnect_ranks()


def _measure(replica: Replica, context: int, batches: list[int], tokens: int, floor: float) -> None:
    engine = replica.start_engine(slots=256, length=context, eos=None)
    chance = random.Random(0)
    for batch in batches:
        _run(engine, list(_prompts(chance, batch, 32)), [8] * batch)  # graphs are captured
        first, seconds, count = _run(engine, list(_prompts(chance, batch, 32)), [tokens] * batch)
        rate = (count - batch) / (seconds - first)
        share = rate * floor / batch
        print(f"decode, batch {batch}: {rate:.1f} tokens/s, {share:.0%} of the floor of a step", flush=True)
    _run(engine, list(_prompts(chance, 4, 1024)), [1] * 4)
    _, seconds, _ = _run(engine, list(_prompts(chance, 16, 1024)), [1] * 16)
    print(f"prefill, 16 x 1,024 ids: {16 * 1024 / seconds:.0f} ids/s", flush=True)
    for _ in range(2):  # once to capture graphs
        prompts = [next(_prompts(chance, 1, chance.randint(20, 400))) for _ in range(256)]
        _, seconds, count = _run(engine, prompts, [chance.randint(8, 256) for _ in prompts])
    print(f"mixed, 256 prompts: {count / seconds:.0f} new tokens/s", flush=True)
    engine.close()


def _prompts(chance: random.Random, count: int, length: int) -> Iterator[list[int]]:
    return ([chance.randrange(VOCABULARY) for _ in range(length)] for _ in range(count))


def _run(engine: Engine, prompts: list[list[int]], tokens: list[int]) -> tuple[float, float, int]:
    """Answer all prompts: seconds to the first token and to the last, and how many tokens."""
    for prompt, most in zip(prompts, tokens, strict=True):
        engine.add(next(IDS), prompt, SamplingParams(maximum_tokens=most, ignore_eos=True))
    start, first, count = time.perf_counter(), None, 0
    while events := engine.step():
        first = first or time.perf_counter() - start
        count += len(events)
    assert first is not None
    return first, time.perf_counter() - start, count


def _bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, those read and those written."""
    source = torch.empty(2**29, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
