"""Decode speed compared with Hugging Face transformers, on the same weights, in turns in one process.

    python benchmarks/decode.py --shapes pythia-160m pythia-410m --dtypes fp32 bf16 --batches 1 16

For each case it prints the tokens per second of both (median of the rounds), the median of the rounds' ratios, and the
floor: a decode step reads every weight once, so it takes at least the bytes of the weights divided by the memory
bandwidth, which is measured here: on a GPU with a matrix-vector product of one large matrix in the same type, on a CPU
with a sum of as many bytes, since products in some types do not keep up with the memory there.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shapes import SHAPES, make
from transformers import AutoModelForCausalLM

import neoxrun
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.engine.session import open_session
from neoxrun.model.dtypes import DTYPES, device_kind
from neoxrun.parallel.mesh import single_rank_mesh

PROMPT_TOKENS = 32


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["pythia-160m", "pythia-410m"], choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--transformers-dtype", choices=list(DTYPES), help="of transformers (the same)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each sequence (64)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each case (5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--keep", type=Path, help="folder to keep the models in (a temporary one)")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(f"{machine(device)}; torch {torch.__version__}, {torch.get_num_threads()} threads; ", end="")
    print(f"neoxrun {neoxrun.__version__}; {PROMPT_TOKENS} prompt and {args.tokens} new tokens")
    print("| shape | dtype | batch | neoxrun tok/s | transformers tok/s | ratio | floor tok/s | of the floor |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for shape in args.shapes:
            for dtype in args.dtypes:
                folder = make(shape, (args.keep or Path(temporary)) / f"{shape}-{dtype}", DTYPES[dtype])
                other = args.transformers_dtype or dtype
                for batch in args.batches:
                    print(_case(folder, shape, dtype, other, batch, args.tokens, args.rounds, device), flush=True)


def _case(
    folder: Path, shape: str, dtype: str, other_dtype: str, batch: int, tokens: int, rounds: int, device: torch.device
) -> str:
    prompts = torch.randint(1, 256, (batch, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))
    measured = _neoxrun(folder, shape, dtype, prompts, tokens, device)
    reference = _transformers(folder, other_dtype, prompts, tokens, device)
    measured(), reference()
    pairs = [(measured(), reference()) for _ in range(rounds)]
    speed, other = (statistics.median(batch * tokens / pair[side] for pair in pairs) for side in (0, 1))
    ratio = statistics.median(other_seconds / seconds for seconds, other_seconds in pairs)
    floor = batch / (_weight_bytes(folder, dtype) / _bandwidth(DTYPES[dtype], device))
    return (
        f"| {shape} | {dtype} | {batch} | {speed:.1f} | {other:.1f} | {ratio:.2f} | {floor:.0f} | {speed / floor:.0%} |"
    )


def _neoxrun(
    folder: Path, shape: str, dtype: str, prompts: torch.Tensor, tokens: int, device: torch.device
) -> Callable[[], float]:
    settings = load_settings([shape, str(folder / "config.yml")])
    session = open_session(
        settings,
        single_rank_mesh(device),
        precisions_for(dtype, device_kind(device)),  # type: ignore[arg-type]
        random_weights=False,
        show_progress=False,
    )
    params = SamplingParams(maximum_tokens=tokens, ignore_eos=True)
    engine = session.replica.start_engine(slots=len(prompts), length=PROMPT_TOKENS + tokens, eos=None)

    def once() -> float:
        start = time.perf_counter()
        for number, prompt in enumerate(prompts.tolist()):
            engine.add(number, prompt, params)
        while engine.step():
            pass
        return time.perf_counter() - start

    return once


def _transformers(
    folder: Path, dtype: str, prompts: torch.Tensor, tokens: int, device: torch.device
) -> Callable[[], float]:
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=DTYPES[dtype]).to(device).eval()
    ids = prompts.to(device)
    mask = torch.ones_like(ids)

    def once() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0
            )
        assert out.shape[1] == PROMPT_TOKENS + tokens
        return time.perf_counter() - start

    return once


def _weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes that a decode step reads: all weights except the word embedding, of which it reads single rows."""
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=DTYPES[dtype])
    read = sum(p.numel() for name, p in model.named_parameters() if "embed_in" not in name)
    return read * DTYPES[dtype].itemsize


def _bandwidth(dtype: torch.dtype, device: torch.device) -> float:
    """Bytes per second that are read of a matrix of 512 MB."""
    if device.type == "cpu":
        dtype = torch.float32
    rows = 2**29 // dtype.itemsize // 4096
    matrix = torch.ones(rows, 4096, dtype=dtype, device=device)
    vector = torch.ones(1, 4096, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        (matrix.sum() if device.type == "cpu" else (vector @ matrix.t()).sum()).item()
        best = min(best, time.perf_counter() - start)
    return matrix.numel() * dtype.itemsize / best


def machine(device: torch.device) -> str:
    """The processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{model}, {torch.get_num_threads()} cores"


if __name__ == "__main__":
    main()
