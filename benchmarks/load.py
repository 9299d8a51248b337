"""Loading compared with Hugging Face transformers: seconds and peak memory, in separate processes, in turns.

    python benchmarks/load.py --shapes pythia-160m pythia-410m --dtypes fp32 bf16

Seconds are from the import of torch to the first token, with the files in the page cache: transformers maps its file
and reads the weights when they are first used, so the load alone would show nothing. Peak memory is the increase of the
process's VmHWM; compare it with the bytes of the weights. `tp 2` is the peak memory of the larger of the two ranks of a
real `neoxrun generate --tp 2`, whole process, and its shard.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from shapes import SHAPES, make

from neoxrun.model.dtypes import DTYPES

_NEOXRUN = """
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.parallel.mesh import single_rank_mesh
from neoxrun.engine.session import open_session
settings = load_settings([SHAPE, FOLDER + "/config.yml"])
def first_token():
    mesh, precisions = single_rank_mesh(torch.device("cpu")), precisions_for(DTYPE, "cpu")
    session = open_session(settings, mesh, precisions, random_weights=False, show_progress=False)
    engine = session.replica.start_engine(slots=1, length=64, eos=None)
    engine.add(0, list(range(1, 33)), SamplingParams(maximum_tokens=1))
    return engine.step()
"""

_TRANSFORMERS = """
from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM
from transformers.utils import logging
logging.disable_progress_bar()
def first_token():
    model = AutoModelForCausalLM.from_pretrained(FOLDER + "/hf", dtype=getattr(torch, TORCH_DTYPE)).eval()
    with torch.inference_mode():
        return model.generate(torch.arange(1, 33)[None], max_new_tokens=1, do_sample=False, pad_token_id=0)
"""

_MEASURE = """
import time, torch
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
{body}
before, start = peak(), time.perf_counter()
token = first_token()
print(time.perf_counter() - start, peak() - before)
"""


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["pythia-160m", "pythia-410m"], choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each case (3)")
    parser.add_argument("--keep", type=Path, help="folder to keep the models in (a temporary one)")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| shape | dtype | weights MB | neoxrun s | transformers s | ratio | neoxrun MB | transformers MB ", end="")
    print("| tp 2 MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for shape in args.shapes:
            for dtype in args.dtypes:
                folder = make(shape, (args.keep or Path(temporary)) / f"{shape}-{dtype}", DTYPES[dtype])
                print(_case(folder, shape, dtype, args.rounds), flush=True)


def _case(folder: Path, shape: str, dtype: str, rounds: int) -> str:
    weights = sum(path.stat().st_size for path in folder.glob("neox/*/*.pt"))
    _run(_NEOXRUN, folder, shape, dtype), _run(_TRANSFORMERS, folder, shape, dtype)
    pairs = [(_run(_NEOXRUN, folder, shape, dtype), _run(_TRANSFORMERS, folder, shape, dtype)) for _ in range(rounds)]
    seconds = [statistics.median(pair[side][0] for pair in pairs) for side in (0, 1)]
    peaks = [statistics.median(pair[side][1] for pair in pairs) for side in (0, 1)]
    ratio = statistics.median(reference[0] / measured[0] for measured, reference in pairs)
    shard, whole = _tensor_parallel(folder, shape, dtype)
    return (
        f"| {shape} | {dtype} | {weights / 1e6:.0f} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.2f} "
        f"| {peaks[0] / 1e6:.0f} | {peaks[1] / 1e6:.0f} | {whole:.0f} of a shard of {shard:.0f} |"
    )


def _run(body: str, folder: Path, shape: str, dtype: str) -> tuple[float, float]:
    names = {"SHAPE": shape, "FOLDER": str(folder), "DTYPE": dtype, "TORCH_DTYPE": str(DTYPES[dtype])[6:]}
    for name in sorted(names, key=len, reverse=True):
        body = re.sub(rf"\b{name}\b", repr(names[name]), body)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE.format(body=body)], capture_output=True, text=True, check=True
    )
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def _tensor_parallel(folder: Path, shape: str, dtype: str) -> tuple[float, float]:
    """MB of a rank's shard and peak MB of the larger rank, as reported by ``generate -v``."""
    command = [sys.executable, "-m", "neoxrun", "generate", shape, str(folder / "config.yml"), "--prompt", "x", "-v"]
    command += ["--device", "cpu", "--tp", "2", "--dtype", dtype, "--maximum-tokens", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"shard of ([\d.]+) MB, peak host memory ([\d.]+) MB", done.stderr)
    return max((float(shard), float(peak)) for shard, peak in found)


if __name__ == "__main__":
    main()
