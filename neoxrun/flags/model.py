"""Options of several commands: which model runs, on which devices and ranks, and how."""

from __future__ import annotations

import argparse
from typing import Final

from neoxrun.config.sampling import SamplingParams
from neoxrun.config.shipped import shipped_names
from neoxrun.flags import values

_FORMAT: Final = (
    "Number format. Default: the configuration's on a GPU; on the CPU bf16 where the processor has instructions for "
    "it, results need not be exact (`evaluate`) and the configuration does not say fp32, else fp32, or bf16 where fp32 "
    "does not fit."
)
_TRAINED_FORMAT: Final = (
    "Number format. Default: on a GPU that of a configuration that sets `optimizer`, else bf16, or fp16 where the GPU "
    "has no bf16; on the CPU fp32."
)


def add_model_arguments(parser: argparse.ArgumentParser, *, training: bool = False) -> None:
    """CONFIG, what overrides it, and which devices and ranks to use; in the words for a training, if that is it."""
    parser.add_argument(
        "config",
        nargs="*",
        metavar="CONFIG",
        help="A model's folder (Hugging Face, or of a GPT-NeoX run), a GPT-NeoX configuration file, or the name of a "
        f"shipped one ({', '.join(shipped_names())}). Several are merged: files win over folders, and the later wins. "
        "Default: 20B.",
    )
    add_overrides(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="Folder of the weights: GPT-NeoX layer files, sequential files or a Hugging Face folder. "
        "Default: the configuration's `load`.",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="Tokenizer file. Default: the configuration's `vocab_file`."
    )
    if training:
        parser.add_argument(
            "--adapter", metavar="DIR", help="Refused: an adapter is not trained further. Default: none."
        )
    else:
        add_adapter(parser)
    parser.add_argument(
        "--merge",
        choices=("fold", "average"),
        default="fold",
        help="What to do with norms that differ between the checkpoint's tensor-parallel ranks, at another --tp: fold "
        "them into the weights that read them, which is exact but for rounding, or average them, as conversions to "
        "Hugging Face's format do. Default: fold.",
    )
    ranks = parser.add_argument_group("devices and ranks")
    ranks.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="Where to compute. Default: cuda where a GPU is visible, else cpu.",
    )
    ranks.add_argument(
        "--gpus",
        type=values.gpu_list,
        metavar="I,J,...",
        help="GPUs to use, counted from 0 among the visible ones. Default: all visible.",
    )
    ranks.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        help=_TRAINED_FORMAT if training else _FORMAT,
    )
    ranks.add_argument(
        "--tp", type=values.positive, metavar="N", help="Tensor-parallel size. Default: decided by the plan."
    )
    ranks.add_argument(
        "--pp",
        type=values.positive,
        metavar="N",
        help="Pipeline stages; only 1 is possible. Default: 1."
        if training
        else "Pipeline stages. Default: decided by the plan.",
    )
    ranks.add_argument(
        "--replicas",
        type=values.positive,
        metavar="N",
        help="Replicas of the model, which share the work. Default: decided by the plan.",
    )
    ranks.add_argument(
        "--nnodes",
        type=values.positive,
        default=1,
        metavar="N",
        help="Number of hosts; start the same command on each. Default: 1.",
    )
    ranks.add_argument(
        "--node-rank", type=values.natural, default=0, metavar="N", help="This host's number, from 0. Default: 0."
    )
    ranks.add_argument(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="Where the hosts meet: an address of host 0 and a free port there. Needed with --nnodes. Default: none.",
    )


def add_adapter(parser: argparse._ActionsContainer) -> None:
    """``--adapter``, for every command that loads weights."""
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="Folder of a LoRA adapter, as PEFT and `neoxrun finetune --lora` write it: it is merged into the weights "
        "when they are loaded. Default: none.",
    )


def add_overrides(parser: argparse._ActionsContainer) -> None:
    """``--set``, for every command that reads a configuration."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="Set a configuration key, whatever the files say. May be repeated. Default: none.",
    )


def add_folder_configuration(parser: argparse._ActionsContainer, purpose: str) -> None:
    """What describes the network, for the commands that name folders of weights.

    Args:
        parser: of the command.
        purpose: what its configuration is for, and what holds without it: sentences of the help.
    """
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="GPT-NeoX configuration: a YAML file, or the name of a shipped one. May be repeated; the later wins. "
        + purpose,
    )
    add_overrides(parser)


def add_random_weights(parser: argparse._ActionsContainer) -> None:
    """``--random-weights``, for the commands that run the model."""
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="Run without a checkpoint, with random weights, to try sizes and speed; every output says so.",
    )


def add_eager(parser: argparse._ActionsContainer) -> None:
    """``--eager``, for the commands that run the model."""
    parser.add_argument(
        "--eager",
        action="store_true",
        help="Capture no CUDA graphs: steps are slower, and the first ones start sooner. Useful for a few short "
        "answers, to save the memory of the graphs, and to find out whether graphs are the cause of a problem.",
    )


def add_seed(parser: argparse._ActionsContainer) -> None:
    """``--seed``, for the commands whose random streams start from the configuration's seed."""
    parser.add_argument(
        "--seed",
        type=values.natural,
        metavar="N",
        help=f"Seed of all random streams. Default: the configuration's, or {SamplingParams().seed}.",
    )


def add_stall_timeout(parser: argparse._ActionsContainer, default: int = 300) -> None:
    """``--stall-timeout``, for the commands that run the model."""
    parser.add_argument(
        "--stall-timeout",
        type=values.natural,
        default=default,
        metavar="SECONDS",
        help="End the job if a rank makes no step for so long, as where its device or host is stuck; 0: never. "
        f"Default: {default}.",
    )
