"""What the options that several commands share become."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from dataclasses import replace

from neoxrun.checkpoint.adapter_layout import use_adapter
from neoxrun.checkpoint.find import find_whole_checkpoint
from neoxrun.checkpoint.stored import use_stored
from neoxrun.config.reader import load_configuration
from neoxrun.config.sampling import sampling_value
from neoxrun.config.settings import Settings
from neoxrun.config.typed import ConfigOptions
from neoxrun.errors import UsageError
from neoxrun.launch.world import existing_world, is_port
from neoxrun.planning import devices
from neoxrun.planning.devices import Device
from neoxrun.planning.driver import check_driver, torch_build
from neoxrun.planning.plan import Plan
from neoxrun.planning.planner import make_plan, vocab_size_for_planning
from neoxrun.planning.request import TYPICAL_PROMPTS, Requested, Work
from neoxrun.terminal.log import log
from neoxrun.tokenizer import load_tokenizer


def is_first(args: argparse.Namespace) -> bool:
    """Whether this process reads the input and writes the output: it is rank 0, or the launcher of host 0."""
    world = existing_world()
    return (world.rank if world else args.node_rank) == 0


def is_alone(args: argparse.Namespace) -> bool:
    """Whether this process starts every other process of its job."""
    return existing_world() is None and args.nnodes == 1


def settings_from_args(args: argparse.Namespace) -> Settings:
    """The settings from the configuration and what overrides it."""
    return configuration_from_args(args)[0]


def configuration_from_args(args: argparse.Namespace, *, read: Collection[str] = ()) -> tuple[Settings, ConfigOptions]:
    """The settings, and all options of the configuration that they are made of.

    Args:
        args: the command line.
        read: options that the command reads itself, although they do not change what a model computes.
    """
    settings, options = load_configuration(
        args.config or ["20B"], args.overrides, checkpoint=args.checkpoint, tokenizer=args.tokenizer
    )
    settings = replace(use_stored(settings), merge=args.merge)
    settings = use_adapter(
        settings, getattr(args, "adapter", None), random_weights=getattr(args, "random_weights", False)
    )
    if getattr(args, "seed", None) is not None:
        settings = replace(settings, seed=sampling_value("seed", args.seed))
    if ignored := [name for name in settings.ignored if name not in read]:
        log.debug("ignored, since they do not change what the model computes: " + ", ".join(ignored))
    if settings.unread:
        why = "as transformers computes the same logits without them for gpt_neox"
        log.debug(f"keys of config.json that are not read, {why}: {', '.join(settings.unread)}")
    return settings, options


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
    requested = requested_from_args(args, work, batch_size, exact=exact)
    vocab_size, assumed = vocab_size_for_planning(settings)
    return make_plan(settings, found, requested, vocab_size=vocab_size, vocab_assumed=assumed)


def requested_from_args(
    args: argparse.Namespace, work: Work = TYPICAL_PROMPTS, batch_size: int | None = None, *, exact: bool = False
) -> Requested:
    """What flags and the ranks that are already started ask of a plan; arguments as for ``plan_from_args``.

    Raises:
        UsageError: options for several hosts do not go together.
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
    return Requested(
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
