"""Options of a training that decide how much memory it needs: of ``finetune`` and of ``plan --finetune``."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.config.training import LoraConfig
from neoxrun.flags import values

LINEARS: Final = LoraConfig().targets


def add_size_arguments(parser: argparse._ActionsContainer) -> None:
    """Rows of a step and of a pass, and what is divided, offloaded and computed twice."""
    parser.add_argument(
        "--batch-size",
        type=values.positive,
        metavar="N",
        help="Rows of an optimizer step, over all replicas. Default: the configuration's `train_batch_size`, or 8, or "
        "one for each replica.",
    )
    parser.add_argument(
        "--micro-batch-size",
        type=values.positive,
        metavar="N",
        help="Rows that each replica computes at a time; the gradients of several passes are added up. Default: the "
        "configuration's `train_micro_batch_size_per_gpu`, or as many as fit.",
    )
    parser.add_argument(
        "--gradient-accumulation-steps",
        type=values.positive,
        metavar="N",
        help="Passes of a step; follows from the other two sizes where both are given. Default: the configuration's.",
    )
    parser.add_argument(
        "--seq-length",
        type=values.positive,
        metavar="N",
        help="Tokens of a row. Default: the configuration's `seq_length`.",
    )
    parser.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 1, 2, 3),
        help="What DeepSpeed's ZeRO divides over the replicas: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 "
        "parameters too. In 16 bits at least 1. Default: the configuration's, or 1, or 0 for fp32 on one replica.",
    )
    parser.add_argument(
        "--offload",
        choices=("optimizer", "all"),
        help="Keep the optimizer's state in the host's memory, or the parameters too, which needs --zero-stage 3. "
        "Default: the configuration's, or neither.",
    )
    parser.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="Compute activations again in the backward pass instead of keeping them: less memory, and about a third "
        "more time. Without it the configuration decides, or whether they fit otherwise.",
    )


def add_lora_arguments(parser: argparse._ActionsContainer) -> None:
    """``--lora`` and what the adapters are."""
    usual = LoraConfig()
    parser.add_argument(
        "--lora",
        action="store_true",
        help="Train low-rank adapters and leave the model as it is. Without it, the whole model is trained.",
    )
    parser.add_argument(
        "--lora-rank", type=values.positive, metavar="N", help=f"Rank of the adapters. Default: {usual.rank}."
    )
    parser.add_argument(
        "--lora-alpha",
        type=float,
        metavar="X",
        help="Adapters are scaled by alpha / rank. Default: twice the rank.",
    )
    parser.add_argument("--lora-dropout", type=float, metavar="P", help="Dropout of the adapters' input. Default: 0.")
    parser.add_argument(
        "--lora-targets",
        nargs="+",
        choices=LINEARS,
        metavar="NAME",
        help=f"Linear layers that have an adapter, of {', '.join(LINEARS)}. Default: all four.",
    )
