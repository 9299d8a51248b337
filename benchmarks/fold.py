"""How far logits are from those of the checkpoint's own ranks in fp32, with folded and with averaged norms.

    python benchmarks/fold.py tests/parity/fixtures/tp2_native/config.yml
    python benchmarks/fold.py --shape pythia-70m --drift 0.05

The checkpoint is one of two tensor-parallel ranks or more: a configuration, or random weights of a published shape
whose ranks' norms differ by as much as `--drift` (the standard deviation of the difference, for scales and shifts). The
first row of each number format is the error of that format alone, at the checkpoint's own size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

import torch
from shapes import SHAPES, make

from neoxrun.checkpoint.find import find_configured_checkpoint
from neoxrun.checkpoint.load import load_weights, read_vocab_rows
from neoxrun.checkpoint.writers import save_layer_files
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Merge, Precision, Settings
from neoxrun.config.tensors import TensorKey
from neoxrun.model.batch import Batch
from neoxrun.model.dtypes import DTYPES
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.tree import TreeAttention
from neoxrun.parallel import mesh as meshes

_CPU = torch.device("cpu")
_TOKENS = 32


def main() -> None:
    """Measure every number format and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="*", help="configuration of a checkpoint of several ranks")
    parser.add_argument("--shape", choices=SHAPES, default="pythia-70m", help="without a configuration (pythia-70m)")
    parser.add_argument("--drift", type=float, default=0.05, help="how much the norms of that shape differ (0.05)")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "fp16", "bf16"], choices=get_args(Precision))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sources = args.config or [args.shape, str(_drifted(args.shape, Path(temporary), args.drift))]
        own = find_configured_checkpoint(load_settings(sources)).source_tp
        right = _run(sources, own, "fp32", "fold")
        print(f"{', '.join(map(os.path.basename, sources))}: logits from {right.min():.1f} to {right.max():.1f}")
        print("| dtype | norms | tp | largest error | mean error |\n|---|---|---|---|---|")
        for dtype in args.dtypes:
            for how, tp, merge in (("own", own, "fold"), ("folded", 1, "fold"), ("averaged", 1, "average")):
                error = (_run(sources, tp, dtype, merge) - right).abs()
                print(f"| {dtype} | {how} | {tp} | {error.max():.2g} | {error.mean():.2g} |", flush=True)


def _drifted(shape: str, folder: Path, drift: float) -> Path:
    """The configuration of a checkpoint of two ranks in fp16 whose norms differ."""
    config = make(shape, folder / shape, torch.float16) / "config.yml"
    model = load_settings([shape]).model
    single = folder / shape / "neox/global_step0"
    tensors = {
        TensorKey(int(path.name[6:8]), name): tensor
        for path in single.glob("layer_*.pt")
        for name, tensor in torch.load(path, weights_only=True).items()
    }
    save_layer_files(tensors, folder / "two", tp=2, config=model, tag="global_step0")
    generator = torch.Generator().manual_seed(0)
    for path in sorted((folder / "two/global_step0").glob("layer_*.pt")):
        state = torch.load(path, weights_only=True)
        for name in state:
            if "norm" in name:
                state[name] = (state[name] + drift * torch.randn(state[name].shape, generator=generator)).half()
        torch.save(state, path)
    two = folder / "two.yml"
    two.write_text(config.read_text(encoding="utf-8").replace(f"{shape}/neox", "two"), encoding="utf-8")
    return two


def _run(sources: list[str], tp: int, dtype: Precision, merge: Merge) -> torch.Tensor:
    """Logits ``[T, V]`` of ids that are all different."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "logits.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={tp}", __file__, "--as-rank", str(found), dtype, merge, *sources]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(max(1, 2 // tp))})
        logits: torch.Tensor = torch.load(found)
        return logits


@torch.inference_mode()
def _rank(found: str, dtype: Precision, merge: Merge, sources: list[str]) -> None:
    mesh = meshes.connect_ranks(int(os.environ["WORLD_SIZE"]), 1, 1, _CPU)
    settings: Settings = load_settings(sources)
    checkpoint = find_configured_checkpoint(settings)
    rows = read_vocab_rows(checkpoint, settings.model)
    stage = Stage(settings.model, mesh, rows, _CPU, precisions_for(dtype, "cpu"))
    load_weights(
        checkpoint,
        stage.targets(),
        stage.assign,
        config=settings.model,
        tp_rank=mesh.tp_rank,
        tp_size=mesh.tp,
        device=_CPU,
        dtype=DTYPES[dtype],
        merge=merge,
    )
    positions = torch.arange(_TOKENS)
    ids = positions * (rows // 2 // _TOKENS)
    attention = TreeAttention(positions[None], positions, None, stage.rotary, positions, stage.cache_dtype)
    logits = stage.gather_logits(stage.head(stage(Batch(ids, positions, attention))))
    if logits is not None:
        torch.save(logits.float(), found)
    meshes.disconnect_ranks()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        _rank(sys.argv[2], *sys.argv[3:5], sys.argv[5:])  # type: ignore[arg-type]
    else:
        main()
