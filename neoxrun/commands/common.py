"""Options that several commands share, and what they become."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from neoxrun.checkpoint.adapter_layout import use_adapter
from neoxrun.checkpoint.find import find_whole_checkpoint
from neoxrun.checkpoint.stored import use_stored
from neoxrun.commands import adapter_flags
from neoxrun.config.reader import load_settings, shipped_names
from neoxrun.config.sampling import SamplingParams, sampling_value
from neoxrun.config.settings import Settings
from neoxrun.errors import UsageError
from neoxrun.launch.world import existing_world, is_port
from neoxrun.planning import devices
from neoxrun.planning.devices import Device
from neoxrun.planning.driver import check_driver, torch_build
from neoxrun.planning.plan import Plan
from neoxrun.planning.planner import make_plan, vocab_size_for_planning
from neoxrun.planning.request import Requested, Work
from neoxrun.terminal.log import log
from neoxrun.tokenizer import load_tokenizer


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, what overrides it, and which devices and ranks to use."""
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
    adapter_flags.add_adapter(parser)
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
        type=_gpu_list,
        metavar="I,J,...",
        help="GPUs to use, counted from 0 among the visible ones. Default: all visible.",
    )
    ranks.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        help="Number format. Default: the configuration's on a GPU; on the CPU bf16 where the processor has "
        "instructions for it, results need not be exact (`evaluate`) and the configuration does not say fp32, else "
        "fp32, or bf16 where fp32 does not fit.",
    )
    ranks.add_argument("--tp", type=positive, metavar="N", help="Tensor-parallel size. Default: decided by the plan.")
    ranks.add_argument("--pp", type=positive, metavar="N", help="Pipeline stages. Default: decided by the plan.")
    ranks.add_argument(
        "--replicas",
        type=positive,
        metavar="N",
        help="Replicas of the model, which share the work. Default: decided by the plan.",
    )
    ranks.add_argument(
        "--nnodes",
        type=positive,
        default=1,
        metavar="N",
        help="Number of hosts; start the same command on each. Default: 1.",
    )
    ranks.add_argument(
        "--node-rank", type=natural, default=0, metavar="N", help="This host's number, from 0. Default: 0."
    )
    ranks.add_argument(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="Where the hosts meet: an address of host 0 and a free port there. Needed with --nnodes. Default: none.",
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
        type=natural,
        metavar="N",
        help=f"Seed of all random streams. Default: the configuration's, or {SamplingParams().seed}.",
    )


def is_first(args: argparse.Namespace) -> bool:
    """Whether this process reads the input and writes the output: it is rank 0, or the launcher of host 0."""
    world = existing_world()
    return (world.rank if world else args.node_rank) == 0


def is_alone(args: argparse.Namespace) -> bool:
    """Whether this process starts every other process of its job."""
    return existing_world() is None and args.nnodes == 1


def settings_from_args(args: argparse.Namespace) -> Settings:
    """The settings from the configuration and what overrides it."""
    settings = use_stored(
        load_settings(args.config or ["20B"], args.overrides, checkpoint=args.checkpoint, tokenizer=args.tokenizer)
    )
    settings = replace(settings, merge=args.merge)
    settings = use_adapter(settings, args.adapter, random_weights=getattr(args, "random_weights", False))
    if getattr(args, "seed", None) is not None:
        settings = replace(settings, seed=sampling_value("seed", args.seed))
    if settings.ignored:
        log.debug("ignored, since they do not change what the model computes: " + ", ".join(settings.ignored))
    return settings


def devices_from_args(args: argparse.Namespace) -> list[Device]:
    """The devices to plan for; empty if GPUs are asked for and none is visible, which no plan accepts."""
    if args.device == "cpu":
        if args.gpus is not None:
            raise UsageError(
                "--gpus and --device cpu cannot be combined",
                code="conflicting_options",
                hint="Leave one of them out.",
            )
        return [devices.cpu_device()]
    gpus = devices.visible_gpus(args.gpus)
    if gpus:
        check_driver(torch_build())
    world = existing_world()
    if world is not None and len(gpus) == 1 and "SLURM_PROCID" in os.environ:
        # Slurm can show each process only its own GPU; the other processes of this host have one each, too.
        return gpus * world.local_size
    if gpus or args.device == "cuda" or args.gpus is not None:
        return gpus
    return [devices.cpu_device()]


def plan_from_args(
    args: argparse.Namespace,
    settings: Settings,
    found: list[Device],
    work: Work,
    batch_size: int | None = None,
    *,
    exact: bool = False,
) -> Plan:
    """How the model runs on ``found``, or on the ranks that torchrun or Slurm has started.

    Args:
        args: the command line.
        settings: the configuration.
        found: the devices.
        work: what is to be done; the same for every process of a job, each of which plans for itself.
        batch_size: most sequences at a time in each replica; None: what fits.
        exact: prefer fp32 on a CPU.
    """
    if args.nnodes > 1 and not args.rdzv_endpoint:
        raise UsageError(
            "--nnodes needs --rdzv-endpoint",
            code="missing_option",
            hint="Give an address of host 0 and a free port: HOST:PORT.",
        )
    if args.rdzv_endpoint is not None:
        address, _, port = args.rdzv_endpoint.rpartition(":")
        if not address or not is_port(port):
            raise UsageError(
                f"--rdzv-endpoint {args.rdzv_endpoint} is not HOST:PORT",
                code="invalid_value",
                hint="Ports are numbers from 1 to 65535.",
            )
    if args.node_rank >= args.nnodes:
        raise UsageError(f"--node-rank {args.node_rank} is not below --nnodes {args.nnodes}", code="invalid_value")
    world = existing_world()
    nnodes = world.size // world.local_size if world else args.nnodes
    requested = Requested(
        tp=args.tp,
        pp=args.pp,
        replicas=args.replicas,
        dtype=args.dtype,
        exact=exact,
        batch_size=batch_size,
        nnodes=nnodes,
        world_size=world.size if world else None,
        work=work,
    )
    vocab_size, assumed = vocab_size_for_planning(settings)
    return make_plan(settings, found, requested, vocab_size=vocab_size, vocab_assumed=assumed)


def check_files(settings: Settings, *, random_weights: bool) -> None:
    """Check now for missing and damaged files, which the ranks would find seconds later.

    Raises:
        CheckpointError: files of the checkpoint are missing or cut short.
        ConfigError: no checkpoint or no tokenizer is named.
        DataError: the tokenizer cannot be read.
    """
    if not random_weights:
        find_whole_checkpoint(settings)
    load_tokenizer(settings.tokenizer)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return _whole(text, 1)


def path(text: str) -> Path:
    """A path. An empty text, which is what an unset shell variable leaves, would mean the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; is a shell variable not set?")
    return Path(text)


def natural(text: str) -> int:
    """A whole number of 0 or more."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def _gpu_list(text: str) -> tuple[int, ...]:
    numbers = tuple(natural(part.strip()) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice")
    return numbers
