"""Load a folder that `neoxrun convert --to neox` wrote with GPT-NeoX's own code, on the CPU, and compare logits.

    neoxrun convert SOURCE FOLDER --to neox --tp 2 --dtype fp32
    python scripts/load_in_gpt_neox.py FOLDER --gpt-neox CLONE --deeperspeed CLONE

The clones are of EleutherAI/gpt-neox and of EleutherAI/DeeperSpeed at the commit in gpt-neox's requirements.txt. Of
the packages that they need, these are not in neoxrun's environment: einops, ftfy, hjson, msgpack,
py-cpuinfo, "setuptools<80", tiktoken. GPT-NeoX's configuration, model, set-up and loader run as they are, one process
for each rank. Replaced is what needs a GPU or a compiler: devices, the states of CUDA's random numbers, and Adam, which
gets no step.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

_TOKENS = 24
# What GPT-NeoX's generate.py and evaluate.py set (megatron/utils.py, setup_for_inference_or_eval), and the CPU's needs.
_OVERRIDES = {
    "checkpoint_activations": False,
    "partition_activations": False,
    "no_load_optim": True,
    "optimizer": None,
    "zero_optimization": None,
    "use_cpu_initialization": True,
    "distributed_backend": "gloo",
}


class _Adam(torch.optim.Adam):
    """In place of DeepSpeed's own, which it compiles."""

    def refresh_fp32_params(self) -> None:
        """Nothing to do: the weights are in fp32."""


def main() -> int:
    """Load the folder on as many processes as it has ranks, and print the largest difference of logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpt-neox", type=Path, required=True)
    parser.add_argument("--deeperspeed", type=Path, required=True)
    args = parser.parse_args()
    folder = args.folder.absolute()
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.environ["MASTER_PORT"] = str(server.getsockname()[1])  # the processes inherit it
    expected, ids, ranks = _expected(folder)
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary) / "logits.pt"
        spawn(_rank, (ranks, folder, (args.deeperspeed.absolute(), args.gpt_neox.absolute()), ids, found), nprocs=ranks)
        logits: Tensor = torch.load(found)
    rows = min(logits.shape[1], expected.shape[1])
    difference = float((logits[:, :rows] - expected[:, :rows]).abs().max())
    print(f"{folder.name}, {ranks} ranks: logits of up to {float(expected.abs().max()):.3g}, {difference:.2g} apart")
    return int(difference > 1e-3)


def _expected(folder: Path) -> tuple[Tensor, list[int], int]:
    """Neoxrun's logits ``[T, V]`` in fp32, the token ids, and the number of ranks."""
    from neoxrun.checkpoint.find import find_checkpoint
    from neoxrun.checkpoint.load import read_vocab_rows
    from neoxrun.config.reader import load_settings
    from neoxrun.conversion.logits import stream_logits

    settings = load_settings([str(folder / "config.yml")])
    checkpoint = find_checkpoint(folder, settings.model)
    rows = read_vocab_rows(checkpoint, settings.model)
    ids = [(79 * at + 5) % rows for at in range(min(_TOKENS, settings.model.max_context))]
    (logits,) = stream_logits(checkpoint, settings.model, [ids])
    return logits, ids, checkpoint.source_tp


def _rank(rank: int, ranks: int, folder: Path, clones: tuple[Path, Path], ids: list[int], found: Path) -> None:
    """One of GPT-NeoX's processes."""
    os.chdir(folder)
    sys.path[:0] = [str(clone) for clone in clones]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
    os.environ.setdefault("TQDM_DISABLE", "1")
    _without_gpu()
    arguments: Any = importlib.import_module("megatron.neox_arguments")
    args = arguments.NeoXArgs.from_ymls(
        ["config.yml"], overwrite_values={**_OVERRIDES, "global_num_gpus": ranks, "load": str(folder)}
    )
    args.configure_distributed_args()
    args.build_tokenizer()
    deepspeed: Any = importlib.import_module("deepspeed")
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    topology: Any = importlib.import_module("deepspeed.runtime.pipe.topology")
    layout = topology.PipeModelDataParallelTopology(num_pp=1, num_mp=ranks, num_dp=1)
    megatron: Any = importlib.import_module("megatron.mpu")
    megatron.initialize_model_parallel(ranks, topology=layout, fp32_allreduce=args.fp32_allreduce)
    training: Any = importlib.import_module("megatron.training")
    model = training.setup_model_and_optimizer(neox_args=args, use_cache=False, iteration=args.iteration)[0].module
    model.inference_mode(use_cache=False)
    model.eval()
    count = len(ids)
    mask = torch.triu(torch.ones(1, 1, count, count, dtype=torch.bool), 1)  # True: not seen
    value: Any = torch.tensor([ids]), torch.arange(count)[None], mask
    with torch.no_grad():
        for layer in model.forward_funcs:
            value = layer(value)
    logits = value[0] if isinstance(value, tuple) else value
    if rank == 0:
        torch.save(logits[0].float() if logits.dim() == 3 else logits.float(), found)


def _without_gpu() -> None:
    """Replace what GPT-NeoX and DeepSpeed ask of a GPU or of a compiler."""
    cuda: Any = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    tensor: Any = torch.Tensor
    tensor.cuda = lambda self, *_args, **_kwargs: self
    importlib.import_module("deepspeed.comm.torch").__dict__["build_shm_op"] = lambda: None
    importlib.import_module("deepspeed.ops.adam").__dict__["FusedAdam"] = _Adam
    random: Any = importlib.import_module("deepspeed.runtime.activation_checkpointing.checkpointing")
    random.CudaRNGStatesTracker.fork = lambda _self, _name=None: nullcontext()


if __name__ == "__main__":
    sys.exit(main())
