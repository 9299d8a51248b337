"""Speed and memory of fine-tuning on GPUs: tokens a second, MFU, and the most memory that a device had in use.

    torchrun --nproc-per-node 1 benchmarks/finetune.py 20B --lora 16
    torchrun --nproc-per-node 2 benchmarks/finetune.py pythia-1.4b --zero-stage 1 --micro-batch-size 8

One process for each GPU, data parallel unless --tp says otherwise; weights and rows are random. The steps are those of
``neoxrun finetune``, without its reading of data and its checkpoints. MFU counts 4 operations a frozen parameter and
token and 6 a trained one; what is computed again in the backward pass does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np
import torch

from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.training import LoraConfig, ScheduleConfig, TrainingConfig, ZeroConfig
from neoxrun.model.gpt_neox import Stage
from neoxrun.model.lora import add_lora
from neoxrun.parallel.mesh import connect_ranks, data_parallel_group, disconnect_ranks
from neoxrun.training.deepspeed_engine import DeepSpeedEngine
from neoxrun.training.effort import Effort, peak_of
from neoxrun.training.network import LanguageModel
from neoxrun.training.rows import Row
from neoxrun.training.stage import mark_divided, train_everything, training_form
from neoxrun.training.trainer import Trainer

WARM_UP = 3


class RandomRows:
    """Rows that are all different, of which every token is learned."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self._count, self._length, self._vocabulary = count, length, vocabulary

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        ids = np.random.default_rng(index).integers(0, self._vocabulary, self._length + 1)
        return Row(ids, np.ones(self._length, dtype=np.bool_))


def main() -> None:
    """Measure, and print one line of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="20B")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the configuration")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank (default: everything)")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size (1)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="number format (bf16)")
    parser.add_argument("--tokens", type=int, default=2048, help="of a row (2048)")
    parser.add_argument("--micro-batch-size", type=int, default=1, help="rows of a pass (1)")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches of a step (4)")
    parser.add_argument("--steps", type=int, default=8, help="to measure (8)")
    parser.add_argument("--zero-stage", type=int, default=1, help="of ZeRO (1)")
    parser.add_argument("--checkpoint-activations", action="store_true", help="compute activations twice")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    mesh = connect_ranks(args.tp, 1, world // args.tp, device)
    data_group = data_parallel_group(mesh)
    changes = [*args.set, f"seq_length={args.tokens}", f"max_position_embeddings={args.tokens}"]
    model = load_settings([args.config], changes).model
    training = TrainingConfig(
        train_iters=WARM_UP + args.steps,
        train_batch_size=args.micro_batch_size * args.accumulate * mesh.replicas,
        micro_batch_size=args.micro_batch_size,
        schedule=ScheduleConfig(1e-5, 1e-6, "cosine", 1.0, 100),
        zero=ZeroConfig(args.zero_stage),
        checkpoint_activations=args.checkpoint_activations,
    )
    vocabulary = model.padded_vocab_size(50277)
    precisions = precisions_for(args.dtype, "cuda" if on_gpu else "cpu")
    stage = Stage(model, mesh, vocabulary, device, precisions, training_form(training, mesh))
    stage.randomize(1)
    if args.lora is None:
        train_everything(stage)
    else:
        add_lora(stage, LoraConfig(rank=args.lora, alpha=2.0 * args.lora), training.seed)
    mark_divided(stage)
    looked_up = 0 if model.tie_embeddings else stage.word_embeddings.weight.numel()
    trained = sum(one.numel() for one in stage.parameters() if one.requires_grad)
    whole = sum(one.numel() for one in stage.parameters()) - looked_up
    if args.lora is None:
        trained -= looked_up
    peak = peak_of(torch.cuda.get_device_name(device), args.dtype, 1) if on_gpu else None
    effort = Effort((whole - trained) * mesh.tp, trained * mesh.tp, peak and peak * world)
    network = LanguageModel(stage, checkpointed=args.checkpoint_activations)
    engine = DeepSpeedEngine(network, mesh, data_group, training)
    rows = RandomRows(training.train_iters * training.train_batch_size, args.tokens, 50000)
    trainer = Trainer(engine, mesh, training, rows, None)
    steps = [trainer.step(index, index) for index in range(training.train_iters)]
    seconds = statistics.median(step.seconds for step in steps[WARM_UP:])
    rate = steps[0].tokens / seconds
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else float("nan")
    if mesh.rank == 0:
        what = "everything" if args.lora is None else f"LoRA {args.lora}"
        name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
        print("| model | trained | devices | tp | rows x tokens | step s | tokens/s | MFU | GiB | loss |")
        print(
            f"| {args.config} | {what}, ZeRO {engine.stage} | {world} x {name} | {args.tp} "
            f"| {training.train_batch_size} x {args.tokens}, micro {args.micro_batch_size}"
            f"{', activations twice' if args.checkpoint_activations else ''} | {seconds:.3f} | {rate:.0f} "
            f"| {100 * (effort.utilization(rate) or 0):.1f} % | {memory:.1f} "
            f"| {steps[0].loss:.3f} to {steps[-1].loss:.3f} |",
            flush=True,
        )
    disconnect_ranks()


if __name__ == "__main__":
    main()
